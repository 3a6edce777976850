// A page about something that is away looks again by itself; what was posted is not posted again.
const { seconds } = document.currentScript.dataset;
setTimeout(() => location.replace(location.href), 1000 * Number(seconds));
