"use strict";
// Search, sort, filter and map the concepts of `ARD.concepts`. Only the rows in sight are in the page.
{
const all = ARD.concepts, total = all ? all.feature.length : 0;
const of = (id) => document.getElementById(id);
const list = of("list");
const ROW = () => matchMedia("(max-width: 34rem)").matches ? 92 : 68, SPARE = 6;
const words = [];
let order = [], column = null, ranks = null, shownIds = new Set();

const name = (id) => all.name[id] === null ? "unnamed" : all.name[id];
const page = (id) => `concepts/${all.layer[id]}-${all.feature[id]}.html`;
const format = (value, digits) => value === null ? "–" : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const textOf = (id) => `${column.name} ${format(all.values[column.key][id], column.digits)}`;

// ---- what is shown, and in what order
function matches() {
  const wanted = of("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const least = of("least").value === "" || of("least").disabled ? null : Number(of("least").value);
  const shown = of("shown").value;
  const values = column ? all.values[column.key] : null;
  const found = [];
  for (let id = 0; id < total; id++) {
    if (shown === "named" && all.name[id] === null || shown === "nameless" && all.name[id] !== null) continue;
    if (shown === "passes" && all.passes[id] !== true || shown === "fails" && all.passes[id] !== false) continue;
    if (least !== null && values && !(values[id] !== null && values[id] >= least)) continue;
    if (wanted.every((word) => words[id].includes(word))) found.push(id);
  }
  return found;
}
function sorted(ids) {
  const by = of("order").value;
  if (by === "name") {
    if (!ranks) {
      const compare = new Intl.Collator().compare;
      ranks = new Uint32Array(total);
      Array.from({ length: total }, (_, id) => id).sort((a, b) => (all.name[a] === null) - (all.name[b] === null) || compare(name(a), name(b))).forEach((id, rank) => { ranks[id] = rank; });
    }
    return ids.sort((a, b) => ranks[a] - ranks[b] || a - b);
  }
  if (by === "feature") return ids.sort((a, b) => all.feature[a] - all.feature[b]);
  if (!column) return ids;
  const values = all.values[column.key];
  return ids.sort((a, b) => (values[a] === null) - (values[b] === null) || values[b] - values[a] || a - b);
}
function update() {
  const started = performance.now();
  const chosen = all.columns.find((one) => one.key === of("order").value);
  of("least").disabled = !chosen;  // of a name or a number of a feature
  column = chosen || all.columns[0] || null;
  order = sorted(matches());
  shownIds = new Set(order);
  list.scrollTop = 0;
  render();
  const count = order.length.toLocaleString("en");
  of("count").textContent = order.length === total ? `${count} concepts` : `${count} of ${total.toLocaleString("en")} concepts`;
  of("nothing").hidden = order.length > 0;
  list.hidden = order.length === 0;
  if (map) map.draw();
  ARD.updateMs = performance.now() - started;
}

// ---- the list
const rows = new Map();
let active = 0;
function render() {
  const height = ROW();
  list.querySelector(".space").style.height = `${order.length * height}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / height) - SPARE);
  const last = Math.min(order.length, Math.ceil((list.scrollTop + list.clientHeight) / height) + SPARE);
  const wanted = new Map();
  for (let place = first; place < last; place++) wanted.set(order[place], place);
  for (const [id, row] of rows) if (!wanted.has(id)) { if (row.contains(document.activeElement)) list.focus({ preventScroll: true }); row.remove(); rows.delete(id); }
  for (const [id, place] of wanted) {
    let row = rows.get(id);
    if (!row) { row = makeRow(id); rows.set(id, row); list.append(row); }
    row.style.transform = `translateY(${place * height}px)`;
    row.style.height = `${height}px`;
    row.setAttribute("aria-posinset", place + 1);
    row.setAttribute("aria-setsize", order.length);
    row.classList.toggle("active", place === active && list.contains(document.activeElement));
    const value = row.querySelector(".value");
    if (column) {
      value.firstChild.textContent = format(all.values[column.key][id], column.digits);
      value.lastChild.textContent = column.name;
    }
  }
}
function makeRow(id) {
  const title = ARD.element("a", { href: page(id), class: "title", dir: "auto" });
  title.textContent = name(id);
  const about = ARD.element("small", {});
  about.textContent = `feature ${all.feature[id]}` + (all.passes[id] === false ? ` · fails: ${all.fails[id] || "no reason is given"}` : "");
  const row = ARD.element("div", { role: "listitem", class: "row" + (all.passes[id] === false ? " failing" : "") + (all.name[id] === null ? " nameless" : "") });
  row.append(player(id), ARD.element("p", { class: "who" }, title, about), ARD.element("p", { class: "value" }, ARD.element("b"), ARD.element("small")));
  row.dataset.id = id;
  return row;
}
function player(id) {
  if (!all.audio[id]) return ARD.element("p", { class: "no-audio" }, "no audio");
  const made = ARD.makeStrip({ audio: `audio/${all.audio[id]}`, spectrogram: `audio/${all.spectrogram[id]}`, label: name(id) });
  made.classList.add("small");
  made.querySelector(".sight").tabIndex = -1;  // the button is enough; a list of sliders is tiring
  return made;
}
function go(place) {
  active = Math.max(0, Math.min(place, order.length - 1));
  const height = ROW(), top = active * height;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + height > list.scrollTop + list.clientHeight) list.scrollTop = top + height - list.clientHeight;
  render();
  const row = rows.get(order[active]);
  if (row) row.querySelector("a").focus({ preventScroll: true });
}
function onListKey(event) {
  const most = Math.max(1, Math.floor(list.clientHeight / ROW()) - 1);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: most, PageUp: -most, Home: -total, End: total };
  const row = event.target.closest(".row");
  if (event.key in steps) go(row ? active + steps[event.key] : steps[event.key] > 0 ? active : 0);
  else if (event.key === " " && event.target.matches("a")) { const strip = row.querySelector(".strip"); if (strip) strip.ardToggle(); }
  else return;
  event.preventDefault();
}

// ---- the map
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const colours = Array.from({ length: 64 }, (_, shade) => {
  const at = shade / 63 * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2), part = at - low;
  const channel = (hex, from) => parseInt(hex.slice(from, from + 2), 16);
  return `rgb(${[1, 3, 5].map((from) => Math.round(channel(VIRIDIS[low], from) * (1 - part) + channel(VIRIDIS[low + 1], from) * part)).join(" ")})`;
});
let map = null;

function makeMap(canvas) {
  const context = canvas.getContext("2d"), MARGIN = 14;
  const placed = []; for (let id = 0; id < total; id++) if (all.places[id]) placed.push(id);
  const radius = Math.max(2.4, Math.min(6, 90 / Math.sqrt(placed.length + 1)));
  let box = { width: 0, height: 0 }, picked = null, pointed = null;
  const at = (id) => [MARGIN + all.places[id][0] * (box.width - 2 * MARGIN), MARGIN + (1 - all.places[id][1]) * (box.height - 2 * MARGIN)];
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function draw() {
    const ratio = devicePixelRatio || 1;
    box = { width: canvas.clientWidth, height: canvas.clientHeight };
    if (!box.width) return;
    if (canvas.width !== Math.round(box.width * ratio)) { canvas.width = Math.round(box.width * ratio); canvas.height = Math.round(box.height * ratio); }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, box.width, box.height);
    const ink = style("--ink"), soft = style("--soft"), paper = style("--card");
    const values = column ? all.values[column.key] : [], [low, high] = range(values);
    const mark = (id) => {
      const [x, y] = at(id), value = column ? values[id] : null;
      context.globalAlpha = shownIds.has(id) ? 1 : 0.1;
      if (all.passes[id] === false) {
        context.strokeStyle = soft; context.lineWidth = 1.4; context.beginPath();
        context.moveTo(x - radius * .7, y - radius * .7); context.lineTo(x + radius * .7, y + radius * .7);
        context.moveTo(x + radius * .7, y - radius * .7); context.lineTo(x - radius * .7, y + radius * .7); context.stroke();
        return;
      }
      context.beginPath(); context.arc(x, y, radius, 0, 7);
      if (value === null) { context.strokeStyle = soft; context.lineWidth = 1; context.stroke(); return; }
      context.fillStyle = colours[Math.round(63 * Math.min(1, Math.max(0, (value - low) / (high - low || 1))))];
      context.fill();
      context.strokeStyle = ink; context.globalAlpha *= 0.4; context.lineWidth = 0.75; context.stroke();
    };
    for (const id of placed) if (!shownIds.has(id)) mark(id);
    for (let place = order.length - 1; place >= 0; place--) if (all.places[order[place]]) mark(order[place]);
    context.globalAlpha = 1;
    label(ink, paper);
    for (const [id, width] of [[pointed, 1.5], [picked, 2.5]]) if (id !== null) {
      const [x, y] = at(id);
      context.strokeStyle = ink; context.lineWidth = width; context.beginPath(); context.arc(x, y, radius + 4, 0, 7); context.stroke();
    }
    of("scale-low").textContent = column ? format(low, column.digits) : "";
    of("scale-high").textContent = column ? `${format(high, column.digits)}  ${column.name}` : "";
  }
  function label(ink, paper) {  // the names that come first, wherever they cover no other
    context.font = "11px system-ui, sans-serif"; context.textAlign = "center"; context.lineWidth = 3; context.lineJoin = "round";
    const taken = [], written = new Set();
    for (const id of order) {
      if (taken.length >= Math.round(box.width / 32)) break;
      if (!all.places[id] || all.name[id] === null || written.has(all.name[id]) || all.passes[id] === false) continue;
      const text = all.name[id].length > 22 ? all.name[id].slice(0, 21) + "…" : all.name[id];
      const [x, y] = at(id), half = context.measureText(text).width / 2, middle = Math.min(Math.max(x, half + 2), box.width - half - 2);
      const own = [middle - half - 3, y - radius - 16, middle + half + 3, y - radius - 1];
      if (own[1] < 0 || taken.some((other) => own[0] < other[2] && other[0] < own[2] && own[1] < other[3] && other[1] < own[3])) continue;
      taken.push(own); written.add(all.name[id]);
      context.strokeStyle = paper; context.fillStyle = ink;
      context.strokeText(text, middle, y - radius - 4); context.fillText(text, middle, y - radius - 4);
    }
  }
  function nearest(x, y, most) {
    let best = null, least = most * most;
    for (const id of placed) {
      if (!shownIds.has(id)) continue;
      const [px, py] = at(id), distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) { least = distance; best = id; }
    }
    return best;
  }
  function next(direction) {  // the nearest within 45 degrees of an arrow
    const [x, y] = at(picked), [dx, dy] = direction;
    let best = null, least = Infinity;
    for (const id of placed) {
      if (id === picked || !shownIds.has(id)) continue;
      const [px, py] = at(id), along = (px - x) * dx + (py - y) * dy, across = Math.abs((px - x) * dy - (py - y) * dx);
      if (along <= 0 || across > along) continue;
      if (along + 2 * across < least) { least = along + 2 * across; best = id; }
    }
    return best;
  }
  function pick(id, play) {
    picked = id;
    const title = ARD.element("a", { href: page(id), dir: "auto" }); title.textContent = name(id);
    const about = ARD.element("small", {});
    about.textContent = `feature ${all.feature[id]}` + (column ? ` · ${textOf(id)}` : "") + (all.passes[id] === false ? ` · fails: ${all.fails[id]}` : "");
    const made = player(id);
    of("picked").replaceChildren(made, ARD.element("p", { class: "who" }, title, about));
    of("picked").hidden = false;
    of("here").textContent = `${name(id)}, ${column ? textOf(id) : ""}`;
    if (play && made.ardToggle) made.ardToggle();
    draw();
  }
  const point = (event) => {
    const edges = canvas.getBoundingClientRect(), id = nearest(event.clientX - edges.left, event.clientY - edges.top, radius + 8);
    if (id === pointed) return;
    pointed = id;
    canvas.style.cursor = id === null ? "" : "pointer";
    const tip = of("tip");
    tip.hidden = id === null;
    if (id !== null) {
      tip.textContent = name(id);
      const [x, y] = at(id);
      tip.style.left = `${Math.min(Math.max(x, 60), box.width - 60)}px`; tip.style.top = `${y + radius + 6}px`;
      if (of("hover").checked) pick(id, true);
    }
    draw();
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", () => { pointed = null; of("tip").hidden = true; draw(); });
  canvas.addEventListener("click", (event) => {
    const edges = canvas.getBoundingClientRect(), id = nearest(event.clientX - edges.left, event.clientY - edges.top, radius + 14);
    if (id !== null) pick(id, true);
  });
  canvas.addEventListener("keydown", (event) => {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in arrows) {
      const id = picked === null ? order.find((one) => all.places[one]) ?? null : next(arrows[event.key]);
      if (id !== null) pick(id, false);
    } else if (event.key === " " && picked !== null) of("picked").querySelector(".strip")?.ardToggle();
    else if (event.key === "Enter" && picked !== null) location.href = page(picked);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return { draw, at };
}
function range(values) {  // a few extremes do not take all the colours
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!known.length) return [0, 1];
  return [known[Math.floor(0.02 * (known.length - 1))], known[Math.ceil(0.98 * (known.length - 1))]];
}

// ---- start
if (total) {
  const form = document.querySelector(".tools"), choice = of("order");
  for (let id = 0; id < total; id++) words.push(`${all.name[id] ?? ""}\n${all.feature[id]}\n${all.words[id]}`.toLowerCase());
  for (const one of all.columns) choice.append(ARD.element("option", { value: one.key, title: one.meaning }, one.name));
  choice.append(ARD.element("option", { value: "name" }, "name"), ARD.element("option", { value: "feature" }, "feature number"));
  if (!all.columns.some((one) => one.key === "m")) choice.value = "name";
  if (!all.passes.some((one) => one !== null)) for (const value of ["passes", "fails"]) of("shown").querySelector(`[value=${value}]`).remove();
  list.append(ARD.element("div", { class: "space", "aria-hidden": "true" }));
  form.hidden = false;
  list.hidden = false;
  const figure = document.querySelector(".map");
  if (figure && all.places) { figure.hidden = false; map = makeMap(of("map")); }
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["query", "least"]) of(id).addEventListener("input", update);
  for (const id of ["order", "shown"]) of(id).addEventListener("change", update);
  list.addEventListener("scroll", render, { passive: true });
  list.addEventListener("keydown", onListKey);
  list.addEventListener("focusin", (event) => { const row = event.target.closest(".row"); if (row) active = order.indexOf(Number(row.dataset.id)); });
  addEventListener("resize", render);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.matches("input, select, textarea")) { event.preventDefault(); of("query").focus(); }
  });
  update();
  ARD.browse = { update, at: (id) => map.at(id) };
}
}
