// The playground: sends the form, and writes down both answers as their tokens come, one JSON object a line.
import { sessionEnded } from "./session.js";

const MARKS = [ // in the order in which a step has them; the words are for those who do not see the marks
  ["first", "First token: "], ["correct", "Correct: "], ["rejected", "Rejected: "], ["dropped", "Dropped: "],
  ["bonus", "The target's own: "], ["unfinished", "Unfinished: "],
];
const SIDES = { speculative: "with speculation", control: "without speculation" };
const RETRY_MS = 1000; // after a stop: until the console has noticed it

const form = document.getElementById("playground");
const send = document.getElementById("send");
const stop = document.getElementById("stop");
const said = document.getElementById("said");
const proposals = document.getElementById("proposals");
let running = null; // the AbortController of the run that is going on
let hasStopped = false;

const stream = (side) => document.querySelector(`#${side} .stream`);
const figure = (side, name) => document.querySelector(`#${side} [data-figure="${name}"]`);
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

// Line ends are seen, and still end the line; a token without text is seen too: as on the page of a trace.
const visible = (text) => text.replaceAll("\r", "␍").replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t") || "∅";

function run(kind, word, texts) {
  const found = element("span", `run ${kind}`);
  found.append(element("span", "hidden", word), ...texts.map((text) => element("span", "t", visible(text))));
  return found;
}

function write(side, event) {
  const place = stream(side);
  const isAtEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
  if (event.marks) {
    place.append(...MARKS.filter(([kind]) => event.marks[kind]).map(([kind, word]) => run(kind, word, event.marks[kind])));
  } else {
    place.append(event.text);
  }
  if (isAtEnd) place.scrollTop = place.scrollHeight; // somebody who has scrolled back reads on
}

function count(side, event) {
  const kept = ["first", "correct", "bonus"].reduce((sum, kind) => sum + (event.marks?.[kind]?.length ?? 0), 0);
  const shown = figure(side, "tokens");
  shown.textContent = Number(shown.textContent) + (event.marks ? kept : 1);
}

const number = (value, digits) => (value === null ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));

function end(side, found) {
  figure(side, "speed").textContent = number(found.tokens_per_second, 1);
  figure(side, "measured").textContent = found.tokens_per_second === null ? "too short to be measured"
    : found.measured_by === "engine" ? "of the engine's own steps" : "as it arrived here, network included";
  figure(side, "version").textContent = found.version ? `v${found.version}` : "";
  figure(side, "accept").textContent = found.num_proposed_drafts ? number(found.accept_length, 2) : "–";
  const steps = found.num_verify_steps === null ? "" : `${found.num_verify_steps} steps`;
  figure(side, "drafts").textContent = found.num_proposed_drafts
    ? `${found.num_correct_drafts} of ${found.num_proposed_drafts} drafts correct, ${steps}` : steps && `no drafts, ${steps}`;
  if (found.num_tokens !== null) figure(side, "tokens").textContent = found.num_tokens;
  const first = found.first_seconds === null ? "" : `first after ${number(found.first_seconds, 2)} s, `;
  figure(side, "time").textContent = `${first}all after ${number(found.seconds, 2)} s; finish: ${found.finish_reason || "–"}`;
}

function verdict(found) {
  document.getElementById("verdict").hidden = false;
  const ratio = document.getElementById("ratio");
  ratio.textContent = found.ratio === null ? "" : `${number(found.ratio, 2)}× as fast with speculation, in this one request.`;
  ratio.hidden = found.ratio === null;
  document.getElementById("notes").replaceChildren(...found.notes.map((note) => element("p", "muted", note)));
}

function clear() {
  for (const problem of form.querySelectorAll(".problem")) problem.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  document.getElementById("verdict").hidden = true;
  for (const side of Object.keys(SIDES)) {
    stream(side).replaceChildren();
    for (const [name, text] of Object.entries({ speed: "–", accept: "–", tokens: "0", measured: "measured when it has ended" })) {
      figure(side, name).textContent = text;
    }
    for (const name of ["version", "drafts", "time"]) figure(side, name).textContent = "";
  }
}

function problem(place, message) {
  const line = element("p", "problem", message);
  line.setAttribute("role", "alert");
  place.append(line);
}

function refuse(errors) {
  for (const [name, messages] of Object.entries(errors)) {
    const field = form.elements[name];
    field.setAttribute("aria-invalid", "true");
    for (const message of messages) problem(field.closest(".field"), message);
  }
  form.elements[Object.keys(errors)[0]]?.focus();
}

function take(event) {
  const { side } = event;
  if (event.event === "begin") {
    said.textContent = `Decoding ${SIDES[side]}…`;
    stream(side).setAttribute("aria-busy", "true");
  } else if (event.event === "text") {
    write(side, event);
    count(side, event);
  } else if (event.event === "end") {
    end(side, event);
    stream(side).removeAttribute("aria-busy");
  } else if (event.event === "error") {
    problem(stream(side), event.message);
    said.textContent = "It failed.";
  } else if (event.event === "done") {
    verdict(event);
    said.textContent = "Done.";
  }
}

async function read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let last = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const event = JSON.parse(line);
      last = event.event;
      take(event);
    }
  }
  if (last !== "done" && last !== "error") throw new Error("it ended before the answer did");
}

const ask = (signal) => fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { "HX-Request": "true" }, signal });

async function play(signal) {
  let answer = await ask(signal);
  if (answer.status === 429 && hasStopped) {
    await wait(RETRY_MS);
    answer = await ask(signal);
  }
  hasStopped = false;
  said.textContent = "";
  if (answer.ok) return read(answer.body);
  if (answer.status === 401) return sessionEnded();
  if (answer.status === 422) return refuse((await answer.json()).errors);
  const message = answer.status === 429 ? (await answer.json()).message : `The console answered ${answer.status}: nothing was sent.`;
  return problem(form, message);
}

async function start() {
  if (running) return;
  running = new AbortController();
  stop.disabled = false;
  if (document.activeElement === send) stop.focus(); // a disabled button would lose the keyboard's place
  send.disabled = true;
  clear();
  said.textContent = "Sent…";
  try {
    await play(running.signal);
  } catch (error) {
    hasStopped = error.name === "AbortError";
    said.textContent = hasStopped ? "Stopped." : "";
    if (!hasStopped) problem(form, `The connection to the console broke: ${error.message}`);
  }
  for (const side of Object.keys(SIDES)) stream(side).removeAttribute("aria-busy");
  running = null;
  send.disabled = false;
  if (document.activeElement === stop) send.focus();
  stop.disabled = true;
}

function showProposals() {
  stream("speculative").classList.toggle("kept-only", !proposals.checked);
}

// The settings are in the address, so that the page can be kept or shown to somebody; the prompt is not.
function keepSettings() {
  const url = new URL(location);
  for (const field of form.querySelectorAll(".settings [name]")) url.searchParams.set(field.name, field.value);
  history.replaceState(null, "", url);
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("change", keepSettings);
  stop.addEventListener("click", () => running?.abort());
  proposals.addEventListener("change", showProposals);
  showProposals(); // a browser may remember the box
}
