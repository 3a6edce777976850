// What replicas say of themselves comes every second; which of their reports tell a change of state?
const TOLD = [
  "is_alive", "is_canary", "state", "detail", "generation", "desired_generation", "version", "desired_version", "is_proven",
  "is_target_untouched", "capture_state", "capture_detail", "pins_obeyed", "pins_detail", "policy_detail",
];

export class Standings {
  constructor() {
    this.known = new Map(); // target and name -> what was told
  }

  // Whether this report says something else than the one before; the first one does.
  isChanged(target, report) {
    const key = `${target} ${report.name}`, told = JSON.stringify(TOLD.map((name) => report[name]));
    const isChanged = this.known.get(key) !== told;
    this.known.set(key, told);
    return isChanged;
  }
}
