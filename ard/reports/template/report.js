"use strict";
// Without this script the page shows the browser's own players; with it, a button and the waveform play a clip.
document.documentElement.classList.add("js");
let current = null;

for (const clip of document.querySelectorAll(".clip")) {
  const audio = clip.querySelector("audio"), button = clip.querySelector(".play"), wave = clip.querySelector(".wave");
  if (!audio) continue;
  audio.controls = false;
  button.hidden = false;
  const move = () => clip.style.setProperty("--played", (100 * audio.currentTime / (audio.duration || 1)) + "%");
  const follow = () => { move(); if (!audio.paused) requestAnimationFrame(follow); };
  const play = () => {
    if (current && current !== audio) current.pause();
    current = audio;
    audio.play().catch(() => button.setAttribute("aria-label", "This browser cannot play the clip"));
  };
  button.addEventListener("click", () => audio.paused ? play() : audio.pause());
  wave.addEventListener("click", (event) => {
    const box = wave.getBoundingClientRect();
    const seek = () => { audio.currentTime = (event.clientX - box.left) / box.width * audio.duration; };
    if (audio.readyState > 0) seek(); else audio.addEventListener("loadedmetadata", seek, { once: true });
    play();
  });
  audio.addEventListener("play", () => { clip.classList.add("playing"); button.setAttribute("aria-pressed", "true"); follow(); });
  audio.addEventListener("pause", () => { clip.classList.remove("playing"); button.setAttribute("aria-pressed", "false"); });
  audio.addEventListener("ended", () => { audio.currentTime = 0; move(); });
}

const tools = document.querySelector(".tools");
if (tools) {
  const query = document.getElementById("query"), order = document.getElementById("order");
  const count = document.getElementById("count"), nothing = document.getElementById("nothing");
  const box = document.getElementById("cards"), cards = [...box.children];
  // not the least representative clips: a search for a dog must not find every feature that is silent on dogs
  const about = (card) => [...card.querySelectorAll("h3, .meta, :scope > .clips, .candidates")].map((part) => part.textContent);
  const words = new Map(cards.map((card) => [card, about(card).join(" ").toLowerCase()]));
  const number = (card, key) => card.dataset[key] === "" ? -Infinity : Number(card.dataset[key]);
  const named = (a, b) => (a.dataset.name === "") - (b.dataset.name === "");
  const orders = {
    named,
    m: (a, b) => number(b, "m") - number(a, "m"),
    active: (a, b) => number(b, "active") - number(a, "active"),
    name: (a, b) => named(a, b) || a.dataset.name.localeCompare(b.dataset.name),
    feature: (a, b) => number(a, "feature") - number(b, "feature"),
  };
  const filter = () => {
    const wanted = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      card.hidden = !wanted.every((word) => words.get(card).includes(word));
      shown += !card.hidden;
    }
    count.textContent = shown === cards.length ? `${shown} concepts` : `${shown} of ${cards.length} concepts`;
    nothing.hidden = shown > 0;
  };
  tools.hidden = false;
  tools.addEventListener("submit", (event) => event.preventDefault());
  query.addEventListener("input", filter);
  order.addEventListener("change", () => box.append(...cards.sort((a, b) => orders[order.value](a, b) || number(a, "feature") - number(b, "feature"))));
  filter();
}
