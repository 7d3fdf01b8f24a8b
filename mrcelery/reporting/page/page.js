"use strict";
// The pages of jobs and of one job, in Flower and as a report. All that a user may have named comes into the page as
// text nodes (see h), never as HTML.
(() => {
const page = JSON.parse(document.getElementById("data").textContent);
const root = document.getElementById("page");
const live = page.live;

// ---- elements, numbers, words ----

function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}
const count = (n) => Math.round(n).toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < 4) { bytes /= 1024; unit += 1; }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}
function seconds(s) {
  if (s < 0.095) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes}m${String(Math.floor(s % 60)).padStart(2, "0")}s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours}h${String(minutes % 60).padStart(2, "0")}m` : `${Math.floor(hours / 24)} days`;
}
const clock = (epoch) => new Date(epoch * 1000).toLocaleString("sv-SE");
const sum = (all, of) => all.reduce((total, one) => total + of(one), 0);
const bad = (stage) => stage.sums.failed + stage.sums.killed + stage.sums.lost;
function median(sorted) { return sorted.length ? sorted[Math.floor((sorted.length - 1) / 2)] : 0; }

const SIGNS = { queued: "◷", running: "▶", succeeded: "✓", failed: "✕", cancelled: "■", retrying: "↻", killed: "✕", lost: "?", superseded: "≠" };
const RETRYING = "running, with retries";
const OUTCOMES = { running: "running", succeeded: "succeeded", failed: "failed", killed: "killed (process died)", lost: "lost (worker gone)",
  superseded: "superseded (another was quicker)", cancelled: "cancelled (its job had ended)" };
const STATES = ["queued", "running", "succeeded", "failed", "cancelled"];
const FINAL = ["succeeded", "failed", "cancelled"];
const BAD = ["failed", "killed", "lost"];
function badge(state, words, solid, title) {
  return h("span", { class: `badge ${state}${solid ? " solid" : ""}`, title }, `${SIGNS[state] || ""} ${words || state}`);
}
function card(title, more, ...content) {
  const kind = typeof more === "string" ? more : "";
  return h("section", { class: `card ${kind}` }, title && h("h2", null, title), ...content);
}
const color = (state) => getComputedStyle(document.documentElement).getPropertyValue(`--${state}`).trim();

// Sections are drawn again only where what they show has changed: so what is selected or open in them stays.
const drawn = new Map();
function draw(name, inputs, make, inPlace) {
  const key = JSON.stringify(inputs);
  const before = drawn.get(name);
  if (before && before.key === key) return;
  const made = make() || h("div", { hidden: true });
  if (before && inPlace) { patch(before.element, made); before.key = key; return; }
  if (!before) root.append(made);
  else if (made !== before.element) before.element.replaceWith(made);
  drawn.set(name, { key, element: made });
}

// Makes what is there the same as what was made, in place: a button that is replaced between press and release is never
// clicked, and one that is replaced under the keyboard's focus loses it. Listeners stay, so they may depend only on what
// an element's id says.
function patch(there, made) {
  if (there.nodeName !== made.nodeName || there.id !== made.id) { there.replaceWith(made); return; }
  if (there.nodeType === Node.TEXT_NODE) { if (there.data !== made.data) there.data = made.data; return; }
  for (const { name } of [...there.attributes]) if (!made.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of made.attributes) {
    if (there.getAttribute(name) === value) continue;
    if (name === "style") there.style.cssText = value; // as an attribute the page's policy forbids it
    else there.setAttribute(name, value);
  }
  patchChildren(there, ...made.childNodes);
}
function patchChildren(there, ...made) {
  const before = [...there.childNodes];
  made.forEach((child, i) => { if (before[i]) patch(before[i], child); else there.append(child); });
  before.slice(made.length).forEach((child) => child.remove());
}

function top(current, note) {
  if (!live) return h("header", { class: "top" }, h("b", null, "mrcelery"), h("span", { class: "note" }, note));
  const link = (to, text, here) => h("a", { href: live.base + to, "aria-current": here ? "page" : null }, text);
  return h("header", { class: "top" }, h("b", null, "mrcelery"), link("/jobs", "Jobs", current === "jobs"),
    link("/workers", "Workers"), link("/tasks", "Tasks"), link("/broker", "Broker"), h("span", { class: "note" }, note));
}
let offline = null;
function tellOffline(why) {
  if (offline) { offline.remove(); offline = null; }
  if (why) { offline = h("div", { class: "offline", role: "status" }, why); document.body.prepend(offline); }
}
async function ask(path, options) {
  // From the origin: an address that was opened with its password in it could not be asked.
  const answer = await fetch(new URL(live.base + path, location.origin), { credentials: "same-origin", ...options });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 300) || `${answer.status} ${answer.statusText}`);
  return answer;
}

// ---- the list of jobs ----

function showJobs() {
  let jobs = page.jobs, kept = [];
  const chosen = { state: "", name: "" };
  document.body.prepend(top("jobs", ""));
  root.append(h("h1", null, "Jobs"));
  const list = h("section", { class: "card" });
  const chips = h("span", null);
  const search = h("input", { type: "search", placeholder: "name, id or owner", "aria-label": "Search jobs",
    oninput: () => { chosen.name = search.value.toLowerCase(); show(); } });
  list.append(h("div", { class: "chips" }, chips, search));
  const table = h("div", { class: "scroll" });
  const older = h("button", { class: "button", onclick: async () => {
    older.disabled = true;
    older.textContent = "Looking...";
    try {
      kept = (await (await ask("/jobs/data?kept=1")).json()).jobs;
      older.remove();
      if (!kept.length) list.append(h("p", { class: "dim small" }, "Storage has no other jobs, or Flower does not know it (MRCELERY_STORAGE)."));
      show();
    } catch (error) { older.disabled = false; older.textContent = `Try again: ${error.message}`; }
  } }, "Look for older jobs in storage");
  list.append(table, h("div", null, older));
  root.append(list);

  function show() {
    const known = new Set(jobs.map((job) => job.job));
    rows([...jobs, ...kept.filter((job) => !known.has(job.job))]);
  }
  function rows(jobs) {
    const states = ["", ...STATES, "unknown"];
    const known = states.filter((state) => !state || jobs.some((job) => job.state === state));
    patchChildren(chips, ...known.map((state) => h("button", { class: "chip", id: `chip-${state}`, "aria-pressed": String(chosen.state === state),
      onclick: () => { chosen.state = state; show(); } },
      `${state || "all"} ${state ? jobs.filter((job) => job.state === state).length : jobs.length}`)));
    const shown = jobs.filter((job) => (!chosen.state || job.state === chosen.state) &&
      (!chosen.name || `${job.name} ${job.job} ${job.owner}`.toLowerCase().includes(chosen.name)));
    if (!shown.length) {
      patchChildren(table, h("div", { class: "empty" }, jobs.length ? "No job is like that." :
        "No jobs yet: run one with ", jobs.length ? "" : h("code", null, "mrcelery submit JOB INPUT...")));
      return;
    }
    patchChildren(table, h("table", { class: "jobs" },
      h("thead", null, h("tr", null, ...["State", "Job", "Progress", "Owner"].map((t) => h("th", null, t)),
        h("th", { class: "n" }, "Age"), h("th", { class: "n" }, "Time"))),
      h("tbody", null, shown.map(row))));
  }
  function row(job) {
    const now = page.now, began = job.started || job.created;
    const ended = FINAL.includes(job.state) || job.state === "unknown";
    const bad = job.failed && !ended;
    return h("tr", null,
      h("td", null, badge(bad ? "retrying" : job.state, bad ? RETRYING : null)),
      h("td", { class: "wrap id" }, h("a", { id: `job-${job.job}`, href: `${live.base}/jobs/${encodeURIComponent(job.job)}` }, h("b", null, job.name || job.job)),
        h("div", { class: "dim small mono" }, job.job),
        job.message && h("div", { class: job.state === "failed" ? "error small" : "dim small" }, job.message)),
      h("td", { class: "prog" }, h("div", { class: "bar" }, h("i", { class: job.state, style: { width: `${job.progress * 100}%` } })),
        h("div", { class: "dim small" }, ended ? job.tasks > 0 && plural(job.tasks, "task") : job.stage ?
          `${job.stage}: ${count(job.succeeded)} of ${plural(job.tasks, "task")}` : "waits for a worker")),
      h("td", { class: "owner" }, job.owner || "–"),
      h("td", { class: "n age", "data-label": "age ", title: clock(job.created) }, job.created ? seconds(Math.max(0, now - job.created)) : "–"),
      h("td", { class: "n time", "data-label": "time " }, began && job.started ? seconds(Math.max(0, (job.finished || (ended ? began : now)) - began)) : "–"));
  }
  show();
  poll(async () => {
    const found = await (await ask("/jobs/data")).json();
    jobs = found.jobs;
    page.now = found.now;
    show();
    return jobs.some((job) => !FINAL.includes(job.state)) ? 2000 : 5000;
  });
}

// ---- polling: while the page is seen ----

function poll(look) {
  let timer = 0, failures = 0, looking = false;
  async function once() {
    if (document.hidden || looking) return;
    looking = true;
    clearTimeout(timer);
    let pause;
    try {
      pause = await look();
      if (failures) tellOffline("");
      failures = 0;
    } catch (error) {
      failures += 1;
      tellOffline(`Not up to date, trying again: ${error.message}`);
      pause = Math.min(1500 * 2 ** failures, 30000);
    }
    looking = false;
    if (pause) timer = setTimeout(once, pause);
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) once(); });
  timer = setTimeout(once, 1500);
  return once;
}

// ---- one job ----

let job = page.overview;
const filter = { what: page.overview && page.overview.state === "failed" && page.overview.stages.some(bad) ? "problems" : "all", text: "", by: "", down: true, shown: 100, open: "" };
const logs = new Map(Object.entries((page.evidence && page.evidence.logs) || {}));
const title = document.title;
let again = () => {};
let ordered = ""; // what the user has ordered, until it is answered

const stageName = (stage) => (job.stages.some((one) => one.step > 0) ? `step ${stage.step} ` : "") + stage.kind;

// Attempts come as arrays: an overview of ten thousand is a megabyte less than with names.
const ATTEMPT = ["task", "attempt", "outcome", "worker", "began", "seconds", "records_in", "records_out", "bytes_in", "bytes_out",
  "error", "bad_records"];
function attemptsOf(overview) {
  const all = [];
  for (const stage of overview.stages) {
    const slowest = new Set(stage.running.filter((one) => one.slow).map((one) => `${one.task}.${one.attempt}`));
    const usual = median(stage.attempts.filter((one) => one[2] === "succeeded").map((one) => one[5]).sort((a, b) => a - b));
    for (const values of stage.attempts) {
      const one = { stage };
      ATTEMPT.forEach((name, i) => { one[name] = values[i]; });
      if (one.outcome === "running") one.seconds = Math.max(0, overview.now - one.began);
      one.token = one.attempt.slice(one.attempt.indexOf("-") + 1);
      one.number = one.attempt.split("-")[0];
      one.key = `${stage.step}.${stage.kind}.${one.task}.${one.attempt}`;
      const far = one.seconds >= 5 && usual && one.seconds > 3 * usual;
      one.slow = one.outcome === "running" ? far || slowest.has(`${one.task}.${one.token}`) : one.outcome === "succeeded" && far;
      all.push(one);
    }
  }
  return all;
}

function verdict() {
  const current = job.stages.filter((stage) => stage.state === "running")[0];
  const took = job.finished && job.started ? seconds(job.finished - job.started) : "";
  const f = job.failure;
  const passed = job.stages.filter((stage) => stage.state === "succeeded").length;
  if (job.state === "running" && !current && passed) {
    return ["running", "running", passed === job.stages.length ? "Running: all tasks have succeeded, the results go to their place." :
      `Running: ${stageName(job.stages[passed - 1])} has succeeded, ${stageName(job.stages[passed])} is about to begin.`];
  }
  if (job.state === "queued" || (job.state === "running" && !current)) {
    if (page.workers === 0) return ["queued", "queued", `Queued: no worker listens on queue ${job.queue}. Start one with `,
      h("code", null, `mrcelery worker --queue ${job.queue}`)];
    return ["queued", "queued", `Queued for ${seconds(Math.max(0, job.now - job.created))}, for a worker of queue ${job.queue} to start it.`];
  }
  if (job.state === "running") {
    const part = `${stageName(current)}, ${count(current.succeeded)} of ${plural(current.tasks, "task")} succeeded` +
      (current.left >= 0 ? `, about ${seconds(current.left)} left` : "");
    if (page.workers === 0) return ["retrying", "running, no workers", `Stands still: no worker listens on queue ${job.queue}. Start one with `,
      h("code", null, `mrcelery worker --queue ${job.queue}`)];
    if (current.succeeded < current.tasks && bad(current)) return ["retrying", RETRYING, `Running with retries: ${part}; ${plural(bad(current), "attempt")} went wrong.`];
    return ["running", "running", `Running: ${part}.`];
  }
  if (job.state === "cancelled") return ["cancelled", "cancelled", `Cancelled${took && ` after ${took}`}: nothing was written to the output.`];
  if (job.state === "succeeded") {
    const last = job.stages[job.stages.length - 1];
    return ["succeeded", "succeeded", `Succeeded in ${took}` + (last ? `: ${plural(last.sums.records_out, "record")}, ${size(last.sums.bytes_out)} written.` : ".")];
  }
  const where = f && f.task >= 0 ? ` in ${f.kind} task ${f.task}` : "";
  if (f && f.traceback) return ["failed", "failed", `Failed in the job's code${where}${took && `, after ${took}`}.`];
  if (f && died(f)) return ["failed", "failed", `Failed because a process died again and again${where}${took && `, after ${took}`}.`];
  return ["failed", "failed", `Failed${where}${took && `, after ${took}`}.`];
}
function died(f) {
  const stage = job.stages.find((one) => one.step === f.step && one.kind === f.kind);
  return f.error === "AttemptsLostError" || Boolean(stage) && stage.attempts.some((one) => one[0] === f.task && (one[2] === "killed" || one[2] === "lost"));
}

function header() {
  const [state, word, ...text] = verdict();
  const ended = FINAL.includes(job.state);
  const act = (what, words, danger) => live && live.actions && h("button", { class: `button ${danger ? "danger" : ""}`, id: what,
    disabled: Boolean(ordered), onclick: () => order(what, words) }, words);
  const fact = (name, value, title) => value && h("span", { title }, `${name} `, h("b", null, value));
  return h("div", null,
    h("div", { class: "head" }, badge(state, word, true), h("h1", null, job.name || job.job),
      h("div", { class: "actions" }, !ended && act("cancel", "Cancel job", true),
        (job.state === "failed" || job.state === "cancelled") && act("retry", "Retry job"))),
    h("p", { class: "verdict" }, text),
    h("div", { class: "facts" }, fact("job", h("span", { class: "mono" }, job.job)), fact("owner", job.owner), fact("queue", job.queue),
      fact("submitted", job.created ? clock(job.created) : ""),
      fact("waited", job.started && job.created ? seconds(Math.max(0, job.started - job.created)) : ""),
      fact(ended ? "took" : "runs for", job.started ? seconds(Math.max(0, (job.finished || job.now) - job.started)) : ""),
      fact("output", job.output), fact("storage", job.storage), job.message && fact("says", job.message)));
}
async function order(what, words) {
  if (!window.confirm(what === "cancel" ? `Cancel job ${job.job}? What it has computed is removed.` : `Try job ${job.job} again? It goes on from what it has committed.`)) return;
  ordered = what;
  show();
  const cookie = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/);
  try {
    await ask(`/api/jobs/${encodeURIComponent(job.job)}/${what}`, { method: "POST", headers: cookie ? { "X-XSRFToken": decodeURIComponent(cookie[1]) } : {} });
    tellOffline("");
  } catch (error) {
    tellOffline(`${words} did not work: ${error.message}`);
  }
  ordered = "";
  show();
  again();
}

function failure() {
  const f = job.failure;
  if (!f || job.state !== "failed") return null;
  const task = f.task >= 0 ? `step ${f.step}, ${f.kind} task ${f.task}${f.attempt ? `, attempt ${f.attempt}` : ""}` : f.step >= 0 ? `step ${f.step}, ${f.kind}` : f.kind;
  const lines = [["where", task], ["input", f.file && f.file + (f.offset >= 0 ? `, byte ${count(f.offset)}` : "")], ["record", f.record && h("code", null, f.record)]];
  const key = `${f.step}.${f.kind}.${f.task}.${f.attempt}`;
  return h("section", { class: "card bad", id: "failure" }, h("h2", null, "Why it failed"), h("div", { class: "error" }, f.message),
    h("div", { class: "facts" }, lines.filter(([, value]) => value).map(([name, value]) => h("span", null, `${name} `, h("b", null, value)))),
    f.traceback && h("pre", null, f.traceback.trimEnd()), f.attempt && logBox(key, f, "What it printed and logged"));
}

function warnings() {
  if (!job.warnings.length) return null;
  return h("section", { class: "card warn" }, h("h2", null, "To know"), h("ul", null, job.warnings.map((one) => h("li", null, one.text))));
}

function commands() {
  const name = job.job, f = job.failure;
  const at = f && f.task >= 0 ? ` --step ${f.step} --kind ${f.kind} --task ${f.task}` : "";
  const lines = { queued: [["wait for it", `mrcelery wait ${name}`], ["stop it", `mrcelery cancel ${name}`]],
    running: [["wait for it", `mrcelery wait ${name}`], ["what it prints", `mrcelery logs ${name} -f`], ["stop it", `mrcelery cancel ${name}`]],
    succeeded: [["print results", `mrcelery cat ${name}`], ["bring them home", `mrcelery fetch ${name} FOLDER`], live && ["keep this page", `mrcelery report ${name}`]],
    failed: [["what the task printed", `mrcelery logs ${name}${at}`], ["go on from what has succeeded", `mrcelery retry ${name}`], live && ["keep this page", `mrcelery report ${name}`]],
    cancelled: [["run it after all", `mrcelery retry ${name}`], ["remove its data", `mrcelery clean ${name}`]] }[job.state] || [];
  return card("Next", "", h("div", { class: "commands" }, lines.filter(Boolean).map(([what, line]) => [h("span", { class: "dim" }, what), h("code", null, line)])));
}

function stages() {
  if (!job.stages.length) return null;
  return card("Stages", "", job.stages.map((stage) => {
    const sums = stage.sums, wrong = bad(stage), tasks = stage.tasks || 1;
    const retrying = stage.state === "running" && wrong && stage.succeeded < stage.tasks;
    const part = (n) => `${Math.min(100, (n / tasks) * 100)}%`;
    const running = stage.state === "running" ? Math.min(sums.started - sums.succeeded - wrong - sums.superseded - sums.cancelled, stage.tasks - stage.succeeded) : 0;
    const time = stage.entered ? (stage.ended || job.now) - stage.entered : 0;
    const fact = (name, value) => value && h("span", null, `${name} `, h("b", null, value));
    const rate = time > 0.5 ? ` (${count(sums.records_in / time)}/s, ${size(sums.bytes_in / time)}/s)` : "";
    return h("div", { class: "stage" },
      h("div", { class: "name" }, h("b", null, stageName(stage)), badge(retrying ? "retrying" : stage.state, retrying ? RETRYING : null), stage.name && stage.kind === "map" && h("span", { class: "dim small" }, stage.name)),
      h("div", null,
        h("div", { class: "count" }, h("span", null, stage.tasks || stage.state === "succeeded" ? `${count(stage.succeeded)} of ${plural(stage.tasks, "task")} succeeded` +
          (running > 0 ? `, ${count(running)} running` : "") : stage.state === "cancelled" ? "not begun" : "not planned yet"),
          h("span", { class: "dim" }, time ? seconds(time) + (stage.left > 0 ? `, about ${seconds(stage.left)} left` : "") : "")),
        h("div", { class: "bar", role: "progressbar", "aria-valuenow": Math.round((stage.succeeded / tasks) * 100), "aria-label": stageName(stage) },
          h("i", { class: stage.state === "running" ? "succeeded" : stage.state, style: { width: part(stage.succeeded) } }),
          running > 0 && h("i", { class: "running", style: { width: part(running) } })),
        h("div", { class: "facts" }, sums.records_in > 0 && fact("read", `${plural(sums.records_in, "record")}, ${size(sums.bytes_in)}${rate}`),
          sums.records_out > 0 && fact("wrote", `${plural(sums.records_out, "record")}, ${size(sums.bytes_out)}`),
          stage.shuffle_bytes > 0 && fact("shuffle", size(stage.shuffle_bytes)),
          sums.succeeded > 0 && fact("mean of a task", seconds(sums.milliseconds / 1000 / sums.succeeded)),
          sums.failed > 0 && fact("failed", plural(sums.failed, "attempt")), sums.killed > 0 && fact("killed", plural(sums.killed, "attempt")),
          sums.lost > 0 && fact("lost", plural(sums.lost, "attempt")), sums.superseded > 0 && fact("superseded", plural(sums.superseded, "attempt")),
          sums.bad_records > 0 && fact("bad records skipped", count(sums.bad_records)))));
  }));
}

function running() {
  const all = job.stages.flatMap((stage) => stage.running.map((one) => ({ ...one, stage })));
  if (!all.length) return null;
  return card("Running now", "", h("div", { class: "scroll" }, h("table", null,
    h("thead", null, h("tr", null, h("th", null, "Task"), h("th", { class: "less" }, "Worker"), h("th", null, ""), h("th", { class: "n" }, "Time"), h("th", { class: "n" }, "Records"),
      h("th", { class: "n" }, "Records/s"))),
    h("tbody", null, all.map((one) => h("tr", null, h("td", null, `${stageName(one.stage)} ${one.task}`), h("td", { class: "less" }, one.worker),
      h("td", { class: "grow" }, one.slow && badge("retrying", "straggler"), one.backed_up && " backup runs", one.quiet >= 10 && ` silent for ${seconds(one.quiet)}`),
      h("td", { class: "n" }, seconds(one.seconds)), h("td", { class: "n" }, count(one.records)), h("td", { class: "n" }, count(one.rate))))))));
}

// ---- timeline: a lane for each process slot of a worker, a bar for each attempt ----

const LANES = 400;
function lanes(attempts) {
  const workers = new Map();
  for (const one of attempts) {
    const [worker, pid] = [one.worker.split(" ")[0] || "?", one.worker.split(" ")[1] || ""];
    if (!workers.has(worker)) workers.set(worker, []);
    const slots = workers.get(worker), free = (slot, slack) => slot.end <= one.began + slack;
    // A process that died leaves its slot to the one that takes its place.
    let slot = slots.find((s) => s.pid === pid && free(s, 0.02)) || slots.find((s) => free(s, 0));
    if (!slot) { slot = { end: 0, pid, bars: [] }; slots.push(slot); }
    slot.pid = pid;
    slot.end = one.began + one.seconds;
    slot.bars.push(one);
  }
  return [...workers].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }));
}
// What all names of workers have in common says nothing: "celery@" before the host, a domain after it.
function shortNames(names) {
  const same = (of) => names.length > 1 && new Set(names.map(of)).size === 1;
  let short = (name) => name;
  if (same((name) => name.split("@")[0]) && !same((name) => name.split("@")[1])) short = (name) => name.slice(name.indexOf("@") + 1);
  const domain = (name) => (short(name).includes(".") ? short(name).slice(short(name).indexOf(".")) : "");
  return same(domain) ? (name) => short(name).slice(0, short(name).length - domain(name).length) : short;
}
// The one zero of the timeline and of the table of attempts.
function zero(attempts) {
  return Math.min(...job.stages.filter((s) => s.entered).map((s) => s.entered), ...attempts.slice(0, 50).map((one) => one.began));
}
function timeline(attempts) {
  if (!attempts.length) return null;
  const workers = lanes(attempts), all = workers.reduce((n, [, slots]) => n + slots.length, 0), most = Math.min(all, LANES);
  const start = zero(attempts);
  const end = attempts.reduce((latest, one) => Math.max(latest, one.began + one.seconds), Math.max(job.finished || job.now, start + 0.001));
  const lane = Math.max(4, Math.min(18, Math.floor(520 / most))), gap = lane > 7 ? 2 : 1, head = 34, between = 6;
  const named = shortNames(workers.map(([worker]) => worker));
  const canvas = h("canvas", { role: "img", "aria-label": `Timeline of ${attempts.length} attempts on ${workers.length} workers; the table of attempts tells the same` });
  const box = h("div", { class: "timeline" }, canvas), tip = h("div", { class: "tip", hidden: true });
  let bars = [];
  function paint() {
    const width = box.clientWidth;
    if (!width) return;
    const narrow = width < 560, left = narrow ? 8 : 150, scale = window.devicePixelRatio || 1;
    const labels = narrow ? 15 : 0;
    let shown = 0, groups = 0;
    for (const [, slots] of workers) { if (shown >= most) break; shown += Math.min(slots.length, most - shown); groups += 1; }
    const height = head + shown * lane + groups * (between + labels) + 6;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.height = `${height}px`;
    const g = canvas.getContext("2d");
    g.scale(scale, scale);
    const x = (t) => left + ((t - start) / (end - start)) * (width - left - 10);
    const inks = {};
    for (const name of ["succeeded", "running", "failed", "killed", "lost", "muted", "dim", "line", "shade", "ink"]) inks[name] = color(name);
    g.font = "11px system-ui, sans-serif";
    g.textBaseline = "middle";
    job.stages.filter((s) => s.entered).forEach((s, i) => {
      const from = x(s.entered), to = x(s.ended || end);
      g.fillStyle = inks.shade;
      if (i % 2 === 0) g.fillRect(from, 0, to - from, height);
      g.fillStyle = inks.dim;
      g.fillRect(from, 0, 1, height);
      g.save();
      g.beginPath(); g.rect(from, 0, to - from, 16); g.clip();
      g.fillText(stageName(s), from + 5, 9);
      g.restore();
    });
    const span = end - start, steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400];
    const step = steps.find((s) => span / s <= (narrow ? 4 : 9)) || 86400 * Math.ceil(span / 86400 / 9);
    for (let t = 0; t <= span; t += step) {
      g.fillStyle = inks.line;
      g.fillRect(x(start + t), 20, 1, height);
      g.fillStyle = inks.dim;
      const label = t === 0 ? "0" : step < 1 ? `${t.toFixed(2).replace(/0$/, "")} s` : seconds(t).replace(".0 s", " s");
      if (x(start + t) + g.measureText(label).width < width - 4) g.fillText(label, x(start + t) + 3, 26);
    }
    bars = [];
    let y = head;
    shown = 0;
    for (const [worker, slots] of workers) {
      if (shown >= most) break;
      g.fillStyle = inks.dim;
      let name = named(worker);
      while (name.length > 4 && g.measureText(name).width > (narrow ? width - 20 : left - 16)) name = `${name.slice(0, -2)}…`;
      if (narrow) { g.fillText(name, left, y + 6); y += labels; }
      else g.fillText(name, 4, y + Math.max(lane, 12) / 2);
      for (const slot of slots) {
        if (shown >= most) break;
        shown += 1;
        for (const one of slot.bars) {
          const from = x(one.began), wide = Math.max(1.5, x(one.began + one.seconds) - from - (lane > 7 ? 1 : 0));
          const ink = inks[one.outcome] || inks.muted;
          g.fillStyle = ink;
          g.globalAlpha = one.outcome === "succeeded" ? (one.stage.kind === "reduce" ? 0.62 : 0.95) : 1;
          g.fillRect(from, y, wide, lane - gap);
          g.globalAlpha = 1;
          if (lane >= 7 && BAD.includes(one.outcome) && wide >= 7) mark(g, from + wide / 2, y + (lane - gap) / 2, Math.min(lane - gap, 9) / 2 - 1.5);
          if (one.slow) { g.fillStyle = inks.lost; g.fillRect(from, y + lane - gap - (lane > 7 ? 2 : 1), wide, lane > 7 ? 2 : 1); triangle(g, from + wide, y + (lane - gap) / 2, inks.lost); }
          if (one.key === filter.open) { g.strokeStyle = inks.ink; g.lineWidth = 2; g.strokeRect(from - 1, y - 1, wide + 2, lane - gap + 2); }
          bars.push([from, y, wide, one]);
        }
        y += lane;
      }
      y += between;
    }
  }
  function mark(g, cx, cy, r) {
    g.strokeStyle = color("card");
    g.lineWidth = 1.5;
    g.beginPath(); g.moveTo(cx - r, cy - r); g.lineTo(cx + r, cy + r); g.moveTo(cx + r, cy - r); g.lineTo(cx - r, cy + r); g.stroke();
  }
  function triangle(g, cx, cy, ink) {
    g.fillStyle = ink;
    g.beginPath(); g.moveTo(cx + 1, cy); g.lineTo(cx + 7, cy - 4); g.lineTo(cx + 7, cy + 4); g.fill();
  }
  function at(event) {
    const place = canvas.getBoundingClientRect(), px = event.clientX - place.left, py = event.clientY - place.top;
    let best = null, near = 4;
    for (const [bx, by, wide, one] of bars) {
      if (py < by - 1 || py > by + lane) continue;
      const off = px < bx ? bx - px : px > bx + wide ? px - bx - wide : 0;
      if (off < near || (off === 0 && near === 0)) { best = one; near = off; }
    }
    return best;
  }
  canvas.addEventListener("mousemove", (event) => {
    const one = at(event);
    tip.hidden = !one;
    canvas.style.cursor = one ? "pointer" : "";
    if (!one) return;
    tip.textContent = `${stageName(one.stage)} task ${one.task}: ${OUTCOMES[one.outcome]}${one.slow ? ", straggler" : ""}\n${seconds(one.seconds)}` +
      (one.records_in ? `, ${plural(one.records_in, "record")}, ${size(one.bytes_in)} read` : "") + `\n${one.worker}${one.error ? `\n${one.error}` : ""}`;
    tip.style.left = `${Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  // At the press: the canvas may be drawn anew before the release, and then there is no click.
  canvas.addEventListener("mousedown", (event) => {
    const one = event.button === 0 && at(event);
    if (!one) return;
    Object.assign(filter, { what: "all", text: `${one.stage.kind} ${one.task}`, open: one.key, shown: 100 });
    show();
    document.getElementById("attempts").scrollIntoView({ behavior: "smooth", block: "start" });
  });
  const kinds = Object.keys(OUTCOMES).map((name) => [name, attempts.filter((one) => one.outcome === name).length]).filter(([, n]) => n);
  const slow = attempts.filter((one) => one.slow).length;
  new ResizeObserver(paint).observe(box);
  if (window.matchMedia) window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  return h("section", { class: "card" }, h("h2", null, "Timeline", h("span", { class: "dim" }, `${plural(attempts.length, "attempt")}, ${plural(workers.length, "worker")}, ` +
    (all > most ? `${count(most)} of ${count(all)} process slots` : `${plural(all, "process slot")}`))), box, tip,
    h("div", { class: "legend" }, kinds.map(([name, n]) => h("span", { class: name }, `${OUTCOMES[name]} ${count(n)}`)),
      slow > 0 && h("span", { class: "mark" }, `◀ straggler ${count(slow)}: over 5 s, and three times the median of its stage`)));
}

// ---- partitions ----

function partitions(stage, attempts) {
  const committed = attempts.filter((one) => one.stage === stage && one.outcome === "succeeded");
  if (stage.kind !== "reduce" || stage.tasks < 2 || !committed.length) return null;
  const records = new Array(stage.tasks).fill(0), bytes = new Array(stage.tasks).fill(0);
  for (const one of committed) { records[one.task] = one.records_in; bytes[one.task] = one.bytes_in; }
  const known = committed.map((one) => one.records_in).sort((a, b) => a - b), largest = known[known.length - 1];
  const mean = sum(known, (n) => n) / known.length, times = mean ? largest / mean : 1;
  const each = Math.ceil(stage.tasks / 240), columns = [];
  for (let i = 0; i < stage.tasks; i += each) {
    const group = records.slice(i, i + each), top = Math.max(...group), which = i + group.indexOf(top);
    columns.push(h("i", { class: top >= 2 * mean && top > 0 ? "over" : "", style: { height: `${largest ? (top / largest) * 100 : 0}%` },
      title: `partition ${which}${each > 1 ? ` (largest of ${group.length})` : ""}: ${plural(top, "record")}, ${size(bytes[which])}` }));
  }
  return h("section", { class: "card" }, h("h2", null, `Partitions${stage.step || job.stages.some((s) => s.step) ? ` of step ${stage.step}` : ""}`,
    h("span", { class: "dim" }, `what each of ${plural(stage.tasks, "reduce task")} read`)),
    h("div", { class: "parts", role: "img", "aria-label": `Records of ${stage.tasks} partitions` }, columns, h("hr", { style: { bottom: `${largest ? (mean / largest) * 100 : 0}%` } })),
    h("div", { class: "facts" }, h("span", null, "largest ", h("b", null, `${plural(largest, "record")} (partition ${records.indexOf(largest)})`)),
      h("span", null, "median ", h("b", null, count(median(known)))), h("span", null, "mean (dashed) ", h("b", null, count(mean))),
      h("span", null, "largest to mean ", h("b", null, `${times.toFixed(1)} ×${times >= 2 ? ": uneven" : ""}`)), known[0] === 0 && h("span", null, "empty ", h("b", null, count(known.filter((n) => !n).length)))));
}

// ---- counters, bad records ----

function counters() {
  const groups = Object.entries(job.counters);
  const requests = Object.entries(job.requests);
  if (!groups.length && !requests.length) return null;
  const table = (rows) => h("table", null, h("tbody", null, rows.map(([name, n]) => h("tr", null, h("td", { class: "wrap grow" }, name), h("td", { class: "n" }, count(n))))));
  return card("Counters", "", groups.map(([group, names]) => [h("h3", null, group), table(Object.entries(names))]),
    requests.length > 0 && [h("h3", null, "requests to S3"), table(requests)]);
}
let badRecords = page.evidence ? { records: page.evidence.bad_records, more: page.evidence.more_bad_records } : null;
function badSection() {
  const skipped = sum(job.stages, (stage) => stage.sums.bad_records);
  if (!skipped && !(badRecords && badRecords.records.length)) return null;
  if (!badRecords && live) {
    badRecords = { records: [], more: 0, loading: true };
    ask(`/jobs/${encodeURIComponent(job.job)}/evidence`).then((answer) => answer.json()).then((found) => {
      badRecords = { records: found.bad_records, more: found.more_bad_records };
      show();
    }, (error) => { badRecords = { records: [], more: 0, error: error.message }; show(); });
  }
  return h("section", { class: "card" }, h("h2", null, "Bad records", h("span", { class: "dim" }, `${count(skipped)} skipped`)),
    badRecords.loading && "looking...", badRecords.error && h("div", { class: "error" }, badRecords.error),
    h("div", { class: "list" }, badRecords.records.map((one) => h("details", null, h("summary", null, h("code", null, one.record || one.error), h("span", { class: "dim small" }, ` ${one.record ? one.error : ""}`)),
      h("div", { class: "dim small" }, `step ${one.step}, ${one.kind} task ${one.task}`, one.file && `, ${one.file}`, one.offset >= 0 && `, byte ${count(one.offset)}`),
      h("pre", null, one.traceback ? one.traceback.trimEnd() : one.error)))),
    badRecords.more > 0 && h("p", { class: "dim small" }, "and more, under _bad_records/"));
}

// ---- attempts ----

function logBox(key, one, title) {
  const box = h("div", null);
  const put = (text) => box.replaceChildren(h("h3", null, title), text ? h("pre", null, text) : h("div", { class: "dim small" }, "It printed and logged nothing that was kept."));
  if (logs.has(key)) put(logs.get(key));
  else if (live) {
    box.append(h("button", { class: "button", onclick: async (event) => {
      event.target.disabled = true;
      const at = new URLSearchParams({ step: one.stage ? one.stage.step : one.step, kind: one.stage ? one.stage.kind : one.kind, task: one.task, attempt: one.attempt });
      try { logs.set(key, await (await ask(`/jobs/${encodeURIComponent(job.job)}/log?${at}`)).text()); put(logs.get(key)); }
      catch (error) { box.append(h("div", { class: "error" }, error.message)); event.target.disabled = false; }
    } }, "Show its log"));
  } else box.append(h("span", { class: "dim small" }, "Its log: ", h("code", null,
    `mrcelery logs ${job.job} --step ${one.stage ? one.stage.step : one.step} --kind ${one.stage ? one.stage.kind : one.kind} --task ${one.task}`)));
  return box;
}
const COLUMNS = [["task", "Task", "", (one) => (one.stage.step * 2 + (one.stage.kind === "reduce" ? 1 : 0)) * 1e9 + one.task], ["number", "Try", "n less", (one) => Number(one.number) || 0],
  ["outcome", "State", "", (one) => Object.keys(OUTCOMES).indexOf(one.outcome)], ["worker", "Worker", "less", (one) => one.worker], ["began", "Began", "n less", (one) => one.began],
  ["seconds", "Time", "n", (one) => one.seconds], ["records_in", "Records in", "n", (one) => one.records_in], ["records_out", "out", "n less", (one) => one.records_out],
  ["bytes_in", "Bytes in", "n less", (one) => one.bytes_in], ["bytes_out", "out", "n less", (one) => one.bytes_out]];
// Made once and then filled, so that the search box keeps the focus while attempts begin and end.
let table = null;
function attemptTable(attempts) {
  if (!attempts.length) return null;
  table = table || makeAttemptTable();
  table.take(attempts);
  return table.element;
}
function makeAttemptTable() {
  let attempts = [], start = 0, retried = new Set();
  const kinds = { all: () => true, problems: (one) => BAD.includes(one.outcome), running: (one) => one.outcome === "running", stragglers: (one) => one.slow,
    "tried again": (one) => retried.has(`${one.stage.step}.${one.stage.kind}.${one.task}`) };
  const body = h("tbody", null), more = h("div", null), chips = h("span", null), note = h("span", { class: "dim" });
  const search = h("input", { type: "search", placeholder: "worker, error, map 17", "aria-label": "Search attempts", value: filter.text,
    oninput: () => { filter.text = search.value; filter.shown = 100; fill(); } });
  const headRow = h("tr", null);
  function take(all) {
    attempts = all;
    start = zero(attempts);
    retried = new Set();
    const seen = new Set();
    for (const one of attempts) { const task = `${one.stage.step}.${one.stage.kind}.${one.task}`; if (seen.has(task)) retried.add(task); seen.add(task); }
    const left = sum(job.stages, (stage) => stage.left_out);
    note.textContent = left > 0 ? `${count(left)} that went well and were quick are not listed` : "";
    if (search.value !== filter.text) search.value = filter.text; // a click in the timeline filters, too
    fill();
  }
  function fill() {
    const words = filter.text.toLowerCase().trim(), exact = words.match(/^(map|reduce) (\d+)$/);
    const match = (one) => !words || (exact ? one.stage.kind === exact[1] && one.task === Number(exact[2]) :
      `${stageName(one.stage)} ${one.task} ${one.worker} ${one.error} ${OUTCOMES[one.outcome]}`.toLowerCase().includes(words));
    let shown = attempts.filter((one) => kinds[filter.what](one) && match(one));
    const by = COLUMNS.find(([name]) => name === filter.by);
    if (by) shown = shown.map((one) => [by[3](one), one]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (filter.down ? -1 : 1)).map(([, one]) => one);
    patchChildren(chips, ...Object.entries(kinds).map(([name, test]) => [name, attempts.filter(test).length]).filter(([name, n]) => n || name === "all" || name === filter.what)
      .map(([name, n]) => h("button", { class: "chip", id: `chip-${name}`, "aria-pressed": String(filter.what === name), onclick: () => { filter.what = name; filter.shown = 100; fill(); } }, `${name} ${count(n)}`)));
    patchChildren(headRow, ...COLUMNS.map(([name, text, kind]) => h("th", { class: kind, "aria-sort": filter.by === name ? (filter.down ? "descending" : "ascending") : null },
      h("button", { onclick: () => { filter.down = filter.by === name ? !filter.down : true; filter.by = name; fill(); } }, text + (filter.by === name ? (filter.down ? " ↓" : " ↑") : "")))));
    patchChildren(body, ...shown.slice(0, filter.shown).flatMap((one) => rows(one)));
    patchChildren(more, ...(shown.length > filter.shown ? [h("button", { class: "button", onclick: () => { filter.shown += 400; fill(); } },
      `Show more (${count(shown.length - filter.shown)} left)`)] : shown.length ? [] : [h("div", { class: "empty" }, "No attempt is like that.")]));
  }
  function rows(one) {
    const open = filter.open === one.key;
    const row = h("tr", { class: one.error || open ? "told" : null },
      h("td", null, h("button", { class: "row", "aria-expanded": String(open), id: one.key, onclick: () => { filter.open = filter.open === one.key ? "" : one.key; fill(); } }, `${open ? "▾" : "▸"} ${stageName(one.stage)} ${one.task}`)),
      h("td", { class: "n less" }, one.number || "–"), h("td", null, badge(one.outcome, one.outcome, false, OUTCOMES[one.outcome]), one.slow && [" ", badge("retrying", "straggler")]),
      h("td", { class: "less" }, one.worker), h("td", { class: "n less" }, `+${seconds(Math.max(0, one.began - start))}`), h("td", { class: "n" }, seconds(one.seconds)),
      ...[["n", count(one.records_in)], ["n less", count(one.records_out)], ["n less", size(one.bytes_in)], ["n less", size(one.bytes_out)]]
        .map(([kind, text]) => h("td", { class: kind }, one.outcome === "succeeded" ? text : "–")));
    const told = one.error && !open ? [h("tr", null, h("td", { colspan: 10, class: "error small" }, one.error))] : [];
    const detail = open ? [h("tr", { class: "detail", id: `detail-${one.key}` }, h("td", { colspan: 10 }, one.error && h("div", { class: "error" }, one.error),
      h("div", { class: "facts" }, h("span", null, "attempt ", h("b", { class: "mono" }, one.attempt)), h("span", null, "on ", h("b", null, one.worker)), h("span", null, "began ", h("b", null, clock(one.began))),
        h("span", null, "read ", h("b", null, `${plural(one.records_in, "record")}, ${size(one.bytes_in)}`)), h("span", null, "wrote ", h("b", null, `${plural(one.records_out, "record")}, ${size(one.bytes_out)}`)),
        one.bad_records > 0 && h("span", null, "skipped ", h("b", null, plural(one.bad_records, "bad record")))),
      one.outcome !== "running" && logBox(one.key, one, "What it printed and logged")))] : [];
    return [row, ...told, ...detail];
  }
  const element = h("section", { class: "card", id: "attempts" }, h("h2", null, "Attempts", note),
    h("div", { class: "chips" }, chips, search), h("div", { class: "scroll" }, h("table", null, h("thead", null, headRow), body)), more);
  return { element, take };
}

function show() {
  const attempts = attemptsOf(job);
  const state = verdict()[1];
  document.title = `${state} · ${title}`;
  const history = [job.state, job.stages.map((s) => [s.sums, s.state, s.attempts.length])];
  const moving = attempts.some((one) => one.outcome === "running") ? job.now : 0;
  draw("header", [job.state, job.now, job.message, page.workers, ordered], header, true);
  draw("failure", [job.failure, job.state], failure);
  draw("warnings", job.warnings, warnings);
  draw("commands", [job.state, job.failure], commands);
  draw("stages", [job.stages.map((s) => ({ ...s, attempts: 0, running: 0 })), FINAL.includes(job.state) ? 0 : job.now], stages);
  draw("running", job.stages.map((s) => s.running), running);
  draw("timeline", [history, moving, filter.open], () => timeline(attempts));
  draw("partitions", history, () => h("div", null, job.stages.map((stage) => partitions(stage, attempts))));
  draw("counters", [job.counters, job.requests, job.stages.map((s) => s.sums.bad_records), badRecords], () => h("div", { class: "two" }, counters(), badSection()));
  draw("attempts", [history, moving, filter.open && filter.text], () => attemptTable(attempts));
}

function showJob() {
  document.body.prepend(top("job", live ? "" : `report of ${clock(job.now)}`));
  show();
  if (!live) return;
  let cost = 0, last = performance.now(), ended = FINAL.includes(job.state) ? 2 : 0;
  again = poll(async () => {
    // A job of ten thousand attempts is not worth a megabyte each second: the more it costs, the rarer it is asked for.
    const began = performance.now(), whole = began - last > 20 * cost || ended > 0;
    const answer = await (await ask(`/jobs/${encodeURIComponent(job.job)}/data${whole ? "" : "?attempts=0"}`)).json();
    if (!whole) answer.overview.stages.forEach((stage, i) => { if (job.stages[i]) { stage.attempts = job.stages[i].attempts; stage.left_out = job.stages[i].left_out; } });
    job = answer.overview;
    page.workers = answer.workers;
    show();
    if (whole) { last = performance.now(); cost = last - began; }
    ended = FINAL.includes(job.state) ? ended + 1 : 0;
    return ended > 3 ? 0 : 1500; // its last attempts may end a little later than the job
  });
}

if (page.kind === "jobs") showJobs();
else showJob();
})();
