"use strict";
document.documentElement.classList.add("js");
const SVG = "http://www.w3.org/2000/svg", KEPT = "ard-study";
const of = (id) => document.getElementById(id);
let rater = null, place = 0, about = null, heard = new Set(), current = null, trouble = 0;

// Kept in this browser only, if it allows that: who is rating, and words that are not saved yet.
function keep(key, value) {
  try { value === null ? localStorage.removeItem(key) : localStorage.setItem(key, value); } catch { /* not allowed */ }
}
function kept(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}
const draft = () => `${KEPT}/${rater.rater}/${place}`;

// Ask until the server answers: while it is down, the answer to save waits here.
async function ask(path, body) {
  for (;;) {
    let answer = null;
    try {
      answer = await fetch(path, body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    } catch { /* the server is down */ }
    if (answer && answer.status !== 503) {
      of("trouble").hidden = true;
      trouble = 0;
      const said = await answer.json();
      return answer.ok ? said : Promise.reject(Object.assign(new Error(said.error), { status: answer.status, said }));
    }
    trouble += 1;
    of("trouble").hidden = false;
    of("trouble").textContent = body
      ? "Not saved yet: the server cannot be reached. Leave this page open; your answer is sent again until it is saved."
      : "The server cannot be reached. This page tries again by itself.";
    await new Promise((done) => setTimeout(done, Math.min(500 * trouble, 3000)));
  }
}
const mine = (rest) => `api/raters/${rater.rater}${rest}`;

function view(name) {
  if (current) current.audio.pause();
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== name;
  of("bar").hidden = name === "welcome";
  scrollTo(0, 0);
}

function progress(found) {
  rater = { ...rater, ...found };
  of("progress").max = rater.total;
  of("progress").value = rater.done;
  of("where").textContent = location.hash === "#end" ? `${rater.done} of ${rater.total} rated` : `Concept ${place} of ${rater.total}`;
  of("who").textContent = rater.person;
}

// ---- who rates
function welcome() {
  view("welcome");
  const known = JSON.parse(kept(KEPT) || "null");
  of("again").hidden = !known;
  of("taken").hidden = true;
  of("joining").hidden = false;
  of("asking").textContent = known ? "Or begin under another name" : "Your name, or any name that you will remember";
  if (known) of("again").textContent = `Go on as ${known.person}`;
  (known ? of("again") : of("person")).focus();
}

async function join(resume) {
  const name = of("person").value.trim();
  if (!name) return of("person").focus();
  try {
    begin(await ask("api/raters", { name, resume }));
  } catch (error) {
    of("joining").hidden = error.status === 409;
    of("taken").hidden = false;
    of("resume").hidden = error.status !== 409;
    of("taken-said").textContent = error.status === 409
      ? `“${name}” has rated ${error.said.done} of ${error.said.total} concepts already. Are you this person?`
      : error.message;
    of(error.status === 409 ? "resume" : "other").focus();
  }
}

function begin(found) {
  rater = found;
  keep(KEPT, JSON.stringify({ rater: rater.rater, person: rater.person }));
  go(rater.open[0] || "end");
}

async function goOn(id) {
  try {
    rater = await ask(`api/raters/${id}`);
  } catch {
    keep(KEPT, null);
    rater = null;
  }
}

// ---- one concept
function go(where) {
  if (location.hash === `#${where}`) show(); else location.hash = where;
}

async function show() {
  const where = location.hash.slice(1);
  if (!where || !rater) return welcome();
  if (where === "end") return finish();
  place = Number(where);
  const wanted = place;
  let found;
  try {
    found = await ask(mine(`/concepts/${wanted}`));
  } catch (error) {
    if (error.status !== 404) throw error;
    return go(rater.open[0] || "end");
  }
  if (wanted !== Number(location.hash.slice(1))) return; // the rater is elsewhere by now
  about = found;
  heard = new Set();
  current = null;
  view("concept");
  of("clips").replaceChildren(...about.waves.map(clip));
  mark(0);
  of("label").value = kept(draft()) || "";
  of("hint").textContent = "";
  of("saved").textContent = "";
  progress({});
  of("back").disabled = place === 1;
  answered();
  of("heading").focus({ preventScroll: true });
}

function answered() {
  const labelled = about.label !== null;
  of("labelling").hidden = labelled;
  of("naming").hidden = !labelled;
  of("heading").textContent = labelled ? "Rate the name" : "Listen to these clips";
  of("yours").textContent = about.label || "";
  of("name").textContent = about.name || "";
  for (const button of of("scale").children) button.setAttribute("aria-pressed", String(Number(button.value) === about.rating));
  const rated = about.rating !== null;
  of("next").classList.toggle("main", rated);
  of("next").textContent = place < rater.total ? (rated ? "Next →" : "Skip for now →") : rater.open.length ? "To the open ones →" : "Finish";
}

function shape(tag, attributes, ...inside) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function clip(wave, index) {
  const item = document.createElement("li"), button = document.createElement("button"), audio = new Audio();
  const tick = document.createElement("span");
  item.className = "clip";
  button.type = "button";
  button.className = "play";
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `Play clip ${index + 1}`);
  button.append(shape("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" },
    shape("path", { class: "icon-play", d: "M3 1.6v8.8L10.4 6z" }), shape("path", { class: "icon-pause", d: "M2.6 1.8h2.4v8.4H2.6zM7 1.8h2.4v8.4H7z" })));
  const drawn = shape("svg", { class: "wave", viewBox: "0 0 192 40", preserveAspectRatio: "none", "aria-hidden": "true" },
    shape("path", { class: "rest", d: wave }), shape("path", { class: "played", d: wave }));
  tick.className = "tick";
  tick.textContent = "✓";
  tick.title = "heard";
  audio.preload = "auto";
  audio.src = mine(`/concepts/${place}/clips/${index + 1}`);
  item.append(button, drawn, tick);
  item.audio = audio;
  const move = () => item.style.setProperty("--played", `${100 * audio.currentTime / (audio.duration || 1)}%`);
  const follow = () => { move(); if (!audio.paused) requestAnimationFrame(follow); };
  audio.addEventListener("play", () => { item.classList.add("playing"); button.setAttribute("aria-pressed", "true"); follow(); });
  audio.addEventListener("pause", () => { item.classList.remove("playing"); button.setAttribute("aria-pressed", "false"); });
  audio.addEventListener("playing", () => listened(item, index));
  audio.addEventListener("ended", () => { audio.currentTime = 0; move(); });
  button.addEventListener("click", () => { mark(index); toggle(); });
  drawn.addEventListener("click", (event) => {
    const box = drawn.getBoundingClientRect();
    mark(index);
    if (audio.duration) audio.currentTime = (event.clientX - box.left) / box.width * audio.duration;
    if (audio.paused) toggle();
  });
  return item;
}

function listened(item, index) {
  heard.add(index);
  item.classList.add("heard");
  if (heard.size === about.waves.length) of("hint").textContent = "";
}

function mark(index) {
  const items = of("clips").children;
  if (current && current !== items[index]) current.audio.pause();
  current = items[index] || null;
  for (const item of items) item.classList.toggle("current", item === current);
}

async function toggle() {
  const { audio } = current, item = current;
  if (!audio.paused) return audio.pause();
  if (audio.error) audio.load(); // the server may be back
  try {
    await audio.play();
    item.querySelector(".broken")?.remove();
  } catch (error) {
    if (error.name === "AbortError" || item.querySelector(".broken")) return;
    const said = document.createElement("p");
    said.className = "broken";
    said.textContent = "This clip cannot be played now: try again, or use another browser.";
    item.append(said);
  }
}

async function label() {
  const said = of("label").value.trim(), left = about.waves.length - heard.size, asked = place;
  if (left) {
    of("hint").textContent = `Please hear all ${about.waves.length} clips first: ${left} to go.`;
    return;
  }
  if (!said) {
    of("hint").textContent = "Please say in a few words what the clips have in common, or that they have nothing in common.";
    return;
  }
  await save(`/concepts/${asked}/label`, { label: said }, asked, () => { keep(draft(), null); of("named").focus(); });
}

async function rate(rating) {
  const asked = place;
  await save(`/concepts/${asked}/rating`, { rating }, asked, () => of("next").focus());
}

async function save(path, body, asked, then) {
  of("saved").textContent = "saving …";
  try {
    const { label, name, rating, ...found } = await ask(mine(path), body);
    rater = { ...rater, ...found };
    if (asked !== place || of("concept").hidden) return;
    about = { ...about, label, name, rating };
    progress({});
    answered();
    then();
    of("saved").textContent = "saved ✓";
  } catch (error) {
    of("saved").textContent = "";
    of("trouble").hidden = false;
    of("trouble").textContent = `Not saved: ${error.message}`;
  }
}

async function finish() {
  await goOn(rater.rater);
  if (!rater) return welcome();
  if (rater.open.length) return go(rater.open[0]);
  view("finished");
  progress({});
  of("saved").textContent = "";
  of("all").textContent = rater.total;
  of("done").focus();
}

const next = () => go(place < rater.total ? place + 1 : rater.open[0] || "end");
const back = () => place > 1 && go(place - 1);

// ---- hands
of("scale").append(...[0, 1, 2, 3, 4, 5].map((rating) => {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", value: rating, textContent: rating });
  button.addEventListener("click", () => rate(rating));
  return button;
}));
of("joining").addEventListener("submit", (event) => { event.preventDefault(); join(false); });
of("labelling").addEventListener("submit", (event) => { event.preventDefault(); label(); });
of("label").addEventListener("input", () => keep(draft(), of("label").value));
of("resume").addEventListener("click", () => join(true));
of("other").addEventListener("click", () => { of("person").value = ""; welcome(); of("person").focus(); });
of("again").addEventListener("click", async () => {
  await goOn(JSON.parse(kept(KEPT)).rater);
  if (rater) begin(rater); else welcome();
});
of("leave").addEventListener("click", () => { rater = null; keep(KEPT, null); go(""); });
of("next").addEventListener("click", next);
of("back").addEventListener("click", back);
of("review").addEventListener("click", () => go(1));
window.addEventListener("hashchange", show);

document.addEventListener("keydown", (event) => {
  if (of("concept").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = of("label"), typing = event.target === field && field.value !== "";
  const onButton = event.target.closest("button, a"), labelled = about.label !== null;
  const keys = {
    " ": !typing && !onButton && toggle,
    ArrowDown: () => { mark(([...of("clips").children].indexOf(current) + 1) % about.waves.length); toggle(); },
    ArrowUp: () => { mark(([...of("clips").children].indexOf(current) + about.waves.length - 1) % about.waves.length); toggle(); },
    ArrowLeft: !typing && back,
    ArrowRight: !typing && next,
    Enter: labelled && !onButton && about.rating !== null && next,
  };
  if (labelled && /^[0-5]$/.test(event.key)) keys[event.key] = () => rate(Number(event.key));
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  } else if (!labelled && event.key.length === 1 && event.key !== " " && event.target !== field) {
    field.focus(); // the key is then typed into it
  }
});

(async () => {
  const known = JSON.parse(kept(KEPT) || "null");
  if (known && location.hash.length > 1) await goOn(known.rater); // the page was reloaded
  show();
})();
