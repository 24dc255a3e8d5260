// What the pages share. Whatever comes from outside is put in as text, never as markup.
export const of = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

export function make(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...inside);
  return made;
}

export function shape(tag, attributes, ...inside) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

// ---- the server
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached: is `ard app` still running?");
  }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `The server refused this (${answer.status}).`);
  return answer;
}
export const read = async (path) => (await ask(path)).json();
export const post = (path, body, signal) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

// Hand on what the server sends, a line each; an error among it is thrown.
export async function stream(path, body, signal, event) {
  const reader = (await post(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value || "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines.filter(Boolean)) {
      const told = JSON.parse(line);
      if (told.error) throw new Error(told.error);
      event(told);
    }
    if (done) return;
  }
}

export function waiting(told) {
  if (told.begun) return "computing …";
  if (told.ahead === undefined) return null;
  if (told.state === "loading") return "The model is being loaded; this goes on when it is there.";
  return told.ahead ? `waiting: ${told.ahead} ${told.ahead === 1 ? "other is" : "others are"} before you` : "waiting …";
}

export function trouble(error) {
  const line = error && error.name !== "AbortError" ? error.message : "";
  of("trouble").hidden = !line;
  of("trouble").textContent = line;
}

export async function about() {
  const run = await read("/api/run");
  of("run").textContent = `${run.name} · layer ${run.layer} of ${run.model}`;
  return run;
}

// ---- a clip
export const soundOf = (clip) => clip.dropped ? `/api/dropped/${encodeURIComponent(clip.dropped)}`
  : `/api/clips/${encodeURIComponent(clip.split)}/${encodeURIComponent(clip.id)}`;
export const placeOf = (clip) => clip.dropped ? { dropped: clip.dropped } : { split: clip.split, id: clip.id };

export const described = (clip) => read(`/api/clip?${new URLSearchParams(placeOf(clip))}`);

export function player(clip, moved = () => {}) {
  const audio = new Audio(soundOf(clip)), box = make("div", { className: "clip" });
  const button = make("button", { type: "button", className: "play" });
  const label = clip.name || clip.id;
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `Play ${label}`);
  button.append(shape("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" },
    shape("path", { class: "icon-play", d: "M3 1.6v8.8L10.4 6z" }), shape("path", { class: "icon-pause", d: "M2.6 1.8h2.4v8.4H2.6zM7 1.8h2.4v8.4H7z" })));
  const wave = shape("svg", { class: "wave", viewBox: "0 0 192 40", preserveAspectRatio: "none", "aria-hidden": "true" },
    shape("path", { class: "rest", d: clip.wave || "" }), shape("path", { class: "played", d: clip.wave || "" }));
  const about = make("p", { className: "what" }, make("b", {}, label), make("small", {}, ` ${clip.duration_s.toFixed(1)} s`));
  if (clip.caption) about.append(make("small", {}, ` · ${clip.caption}`));
  if (clip.note) about.append(make("small", { className: "warn" }, ` · ${clip.note}`));
  box.append(button, wave, about);
  box.audio = audio;
  box.toggle = () => audio.paused ? audio.play().catch((error) => { if (error.name !== "AbortError") trouble(new Error("This clip cannot be played in this browser.")); }) : audio.pause();
  box.seek = (seconds) => { audio.currentTime = Math.min(seconds, clip.duration_s); move(); if (audio.paused) box.toggle(); };
  const move = () => {
    box.style.setProperty("--played", `${100 * audio.currentTime / clip.duration_s}%`);
    moved(audio.currentTime);
  };
  const follow = () => { move(); if (!audio.paused) requestAnimationFrame(follow); };
  audio.addEventListener("play", () => { box.classList.add("playing"); button.setAttribute("aria-pressed", "true"); follow(); });
  audio.addEventListener("pause", () => { box.classList.remove("playing"); button.setAttribute("aria-pressed", "false"); });
  audio.addEventListener("ended", () => { audio.currentTime = 0; move(); });
  button.addEventListener("click", box.toggle);
  wave.addEventListener("click", (event) => {
    const drawn = wave.getBoundingClientRect();
    box.seek((event.clientX - drawn.left) / drawn.width * clip.duration_s);
  });
  return box;
}

// ---- choosing a clip: drop a file, record, or search among the run's
export function chooser(box, run, chosen) {
  const file = make("input", { type: "file", id: "file", className: "hidden", accept: "audio/*,video/*,.flac,.opus,.aiff,.au,.caf" });
  const pick = make("label", { className: "button", htmlFor: "file" }, "Choose a file");
  const record = make("button", { type: "button" }, "Record");
  const limits = `at most ${run.limits.seconds} s and ${run.limits.bytes / 2 ** 20} MiB`;
  const drop = make("div", { className: "drop" }, make("p", {}, "Drop a sound here"), make("p", { className: "line" }, file, pick, record), make("p", { className: "note" }, `wav, flac, mp3, ogg and more; ${limits}. It stays on the machine that runs this server, and is not stored.`));
  const take = async (content, name) => {
    trouble(null);
    if (content.size > run.limits.bytes) return trouble(new Error(`“${name}” is longer than ${run.limits.bytes / 2 ** 20} MiB: give a part of it`));
    drop.classList.add("busy");
    try {
      const answer = await ask(`/api/dropped?name=${encodeURIComponent(name)}`, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: content });
      chosen(await answer.json());
    } catch (error) {
      trouble(error);
    } finally {
      drop.classList.remove("busy");
      file.value = "";
    }
  };
  file.addEventListener("change", () => file.files[0] && take(file.files[0], file.files[0].name));
  for (const kind of ["dragover", "dragenter"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const [dropped] = event.dataTransfer.files;
    if (dropped) take(dropped, dropped.name);
  });
  recording(record, run.limits.seconds, (content) => take(content, "recording.wav"));
  box.append(drop);
  if (run.splits.length) box.append(search(run, chosen));
}

function search(run, chosen) {
  const split = make("select", { id: "split" }, ...run.splits.map((name) => make("option", { value: name }, name)));
  const words = make("input", { type: "search", id: "words", autocomplete: "off", placeholder: "words of its caption or id" });
  const list = make("ul", { className: "found", id: "clips", "aria-label": "Clips found" });
  let latest = 0;
  const find = async () => {
    const mine = latest += 1;
    let found;
    try {
      found = await read(`/api/clips?split=${encodeURIComponent(split.value)}&search=${encodeURIComponent(words.value)}`);
    } catch (error) {
      return trouble(error);
    }
    if (mine !== latest) return;
    list.replaceChildren(...found.map((clip) => {
      const button = make("button", { type: "button" }, make("span", {}, clip.caption || clip.id), make("small", {}, `${clip.id} · ${clip.duration_s.toFixed(1)} s`));
      button.addEventListener("click", () => chosen(clip));
      return make("li", {}, button);
    }));
    if (!found.length) list.append(make("li", { className: "note" }, "No clip has these words."));
  };
  split.addEventListener("change", find);
  words.addEventListener("input", find);
  find();
  return make("div", { className: "ours" }, make("p", { className: "line" },
    make("label", {}, "The run’s clips ", split), make("label", { className: "grow" }, "Search ", words)), list);
}

// ---- the microphone, as a WAV file that the server reads without a decoder
function recording(button, longest, done) {
  let stop = null;
  button.addEventListener("click", async () => {
    trouble(null);
    if (stop) return stop();
    if (!navigator.mediaDevices) return trouble(new Error("This browser records only on the machine that runs the server, or over https: drop a file instead."));
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    } catch (error) {
      return trouble(new Error(`The microphone cannot be used (${error.name}): allow it in the browser, or drop a file.`));
    }
    const context = new AudioContext(), blocks = [];
    await context.audioWorklet.addModule("/recorder.js");
    const node = new AudioWorkletNode(context, "recorder");
    node.port.onmessage = ({ data }) => { blocks.push(data); };
    context.createMediaStreamSource(stream).connect(node);
    const began = performance.now();
    const tick = setInterval(() => {
      const seconds = (performance.now() - began) / 1000;
      button.textContent = `Stop recording (${seconds.toFixed(0)} s)`;
      if (seconds > longest - 1) stop();
    }, 200);
    button.textContent = "Stop recording";
    button.classList.add("recording");
    stop = () => {
      clearInterval(tick);
      stop = null;
      for (const track of stream.getTracks()) track.stop();
      button.textContent = "Record";
      button.classList.remove("recording");
      const rate = context.sampleRate;
      context.close();
      done(wav(blocks, rate));
    };
  });
}

function wav(blocks, rate) {
  const length = blocks.reduce((sum, block) => sum + block.length, 0), view = new DataView(new ArrayBuffer(44 + 2 * length));
  const text = (at, word) => [...word].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * length, true);
  let at = 44;
  for (const block of blocks) for (const sample of block) {
    view.setInt16(at, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true);
    at += 2;
  }
  return new Blob([view.buffer], { type: "audio/wav" });
}
