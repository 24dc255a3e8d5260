"use strict";
// Players. A `.strip` holds a spectrogram and an <audio>; this adds a button, the feature's activation along time, and
// a playhead through both. `ARD.strip` does it for one element, `ARD.makeStrip` makes such an element from data.
const ARD = window.ARD = window.ARD || {};
document.documentElement.classList.add("js");

ARD.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const SVG = "http://www.w3.org/2000/svg";
const drawn = (tag, attributes) => {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
ARD.icon = () => {
  const icon = drawn("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" });
  icon.append(drawn("path", { class: "icon-play", d: "M3 1.6v8.8L10.4 6z" }));
  icon.append(drawn("path", { class: "icon-pause", d: "M2.6 1.8h2.4v8.4H2.6zM7 1.8h2.4v8.4H7z" }));
  return icon;
};

// One sound at a time on a page.
ARD.current = null;
ARD.play = (audio) => {
  if (ARD.current && ARD.current !== audio) ARD.current.pause();
  ARD.current = audio;
  return audio.play();
};

// The activations of a clip from two hexadecimal digits a token, as shares of the feature's maximum.
ARD.levels = (hex) => Array.from({ length: hex.length / 2 }, (_, token) => parseInt(hex.slice(2 * token, 2 * token + 2), 16) / 255);

function curve(levels, share) {  // steps: a token is a stretch of time
  const height = 20, width = 1000;
  const steps = levels.map((level, token) => {
    const right = Math.min((token + 1) * share, 1) * width;
    return `V${(height * (1 - level)).toFixed(1)}H${right.toFixed(1)}`;
  });
  return `M0 ${height}${steps.join("")}V${height}z`;
}

ARD.strip = (strip) => {
  const audio = strip.querySelector("audio"), sight = strip.querySelector(".sight"), data = strip.dataset;
  const levels = ARD.levels(data.levels || ""), perToken = Number(data.secondsPerToken) || 0;
  const seconds = () => Number(data.duration) || audio.duration || levels.length * perToken || 1;
  const button = ARD.element("button", { type: "button", class: "play", "aria-pressed": "false", "aria-label": `Play: ${data.label}` }, ARD.icon());
  const head = ARD.element("span", { class: "head", "aria-hidden": "true" });
  const now = ARD.element("output", { class: "now", "aria-hidden": "true" });
  if (levels.length) {
    const along = drawn("svg", { class: "along", viewBox: "0 0 1000 20", preserveAspectRatio: "none", "aria-hidden": "true" });
    along.append(drawn("path", { d: curve(levels, perToken / seconds()) }));
    sight.append(along);
  } else if (data.active) {
    const [start, end, strongest] = data.active.split(" ").map(Number);
    const stretch = ARD.element("span", { class: "stretch", "aria-hidden": "true" });
    stretch.style.left = `${100 * start}%`;
    stretch.style.width = `${100 * (end - start)}%`;
    const line = ARD.element("span", { class: "strongest", "aria-hidden": "true" });
    line.style.left = `${100 * strongest}%`;
    sight.append(stretch, line);
  }
  sight.append(head);
  strip.prepend(button);
  strip.append(now);
  audio.controls = false;
  const slider = { role: "slider", tabindex: "0", "aria-label": `Position in ${data.label}`, "aria-valuemin": "0", "aria-valuemax": seconds().toFixed(2), "aria-valuenow": "0" };
  for (const [name, value] of Object.entries(slider)) sight.setAttribute(name, value);

  const move = () => {
    const time = audio.currentTime, share = Math.min(time / seconds(), 1);
    head.style.left = `${100 * share}%`;
    const token = Math.floor(time / perToken + 1e-6), level = levels.length ? levels[Math.min(token, levels.length - 1)] : null;
    if (level !== null) data.level = level.toFixed(2);
    now.textContent = `${time.toFixed(1)} s` + (level === null ? "" : ` · ${Math.round(100 * level)} %`);
    sight.setAttribute("aria-valuenow", time.toFixed(2));
    sight.setAttribute("aria-valuetext", `${time.toFixed(1)} of ${seconds().toFixed(1)} seconds` + (level === null ? "" : `, activation ${Math.round(100 * level)} percent of its maximum`));
  };
  const follow = () => { move(); if (!audio.paused) requestAnimationFrame(follow); };
  const cannot = (error) => {
    if (error && error.name === "AbortError") return;  // paused before it began
    strip.classList.add("broken");
    now.textContent = "cannot be played here";
    button.setAttribute("aria-label", `Cannot be played here: ${data.label}`);
  };
  const toggle = () => { if (audio.paused) ARD.play(audio).catch(cannot); else audio.pause(); };
  let wanted = null, tried = false;  // where to, while a seek is under way
  const set = () => { audio.currentTime = wanted; };
  const load = () => { audio.addEventListener("loadedmetadata", set, { once: true }); audio.load(); };
  const seek = (time) => {
    wanted = Math.max(0, Math.min(time, seconds() - 0.01));
    tried = false;
    if (audio.readyState > 0) set(); else load();
  };
  const again = () => {  // Chromium fails to seek in some FLAC files, unless they are loaded anew
    if (wanted === null || tried) return cannot(null);
    tried = true;
    load();
  };
  button.addEventListener("click", toggle);
  sight.addEventListener("click", (event) => {
    const box = sight.getBoundingClientRect();
    audio.addEventListener("seeked", () => { if (audio.paused) ARD.play(audio).catch(cannot); }, { once: true });
    seek((event.clientX - box.left) / box.width * seconds());
  });
  sight.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1 };
    if (event.key in steps) seek((wanted ?? audio.currentTime) + steps[event.key]);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(seconds());
    else if (event.key === " " || event.key === "Enter") toggle();
    else return;
    event.preventDefault();
  });
  audio.addEventListener("play", () => { strip.classList.add("playing"); button.setAttribute("aria-pressed", "true"); follow(); });
  audio.addEventListener("pause", () => { strip.classList.remove("playing"); button.setAttribute("aria-pressed", "false"); move(); });
  audio.addEventListener("seeked", () => { wanted = null; move(); });
  audio.addEventListener("ended", () => { audio.currentTime = 0; move(); });
  audio.addEventListener("error", again);
  strip.ardToggle = toggle;
  return strip;
};

ARD.makeStrip = ({ audio, spectrogram, label, duration, levels, secondsPerToken }) => {
  const picture = ARD.element("img", { class: "mel", src: spectrogram, alt: "", width: 200, height: 40 });
  return ARD.strip(ARD.element("div", { class: "strip", "data-label": label, "data-duration": duration, "data-levels": levels, "data-seconds-per-token": secondsPerToken },
    ARD.element("div", { class: "sight" }, picture), ARD.element("audio", { preload: "none", src: audio })));
};

for (const strip of document.querySelectorAll(".strip")) ARD.strip(strip);

// On a concept's page, the arrow keys turn to the concept before and after it.
document.addEventListener("keydown", (event) => {
  if (event.target !== document.body || event.altKey || event.ctrlKey || event.metaKey) return;
  const link = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  const found = link && document.querySelector(`a[rel="${link}"]`);
  if (found) found.click();
});
