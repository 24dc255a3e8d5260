import { about, chooser, make, of, placeOf, player, shape, stream, trouble, waiting } from "/app.js";

const WIDTH = 600, HEIGHT = 32, FIRST = 12;
let run = null, current = null, sound = null;

async function hear(clip) {
  trouble(null);
  current?.abort();
  sound?.audio.pause();
  current = new AbortController();
  const { signal } = current;
  of("result").hidden = true;
  try {
    await stream("/api/listen", { clip: placeOf(clip) }, signal, (told) => {
      of("status").textContent = waiting(told) || "";
      if (told.heard) show(clip, told.heard);
    });
  } catch (error) {
    of("status").textContent = "";
    trouble(error);
  }
}

function show(clip, heard) {
  const span = heard.num_tokens * heard.token_s;
  sound = player({ ...clip, ...heard }, (seconds) => of("fired").style.setProperty("--head", `${Math.min(100, 100 * seconds / span)}%`));
  of("player").replaceChildren(sound);
  of("fired").style.setProperty("--head", "0%");
  of("end").textContent = `${span.toFixed(1)} s`;
  const short = heard.heard_s < heard.duration_s ? ` The model hears the first ${heard.heard_s.toFixed(0)} s.` : "";
  const shown = heard.concepts.length < heard.num_concepts ? `, of which the first ${heard.concepts.length} are listed` : "";
  of("summary").textContent = heard.num_concepts
    ? `${heard.num_concepts} named concepts fire${shown}, and ${heard.num_unnamed} features without a name.${short}`
    : `No named concept fires in this clip, and ${heard.num_unnamed} features without a name do.${short}`;
  const steered = (feature) => `/steer?${new URLSearchParams({ ...placeOf(clip), feature })}`;
  const rows = heard.concepts.map((concept) => row(concept, heard.token_s, span, steered(concept.feature)));
  of("fired").replaceChildren(...rows);
  for (const later of rows.slice(FIRST)) later.hidden = true;
  of("rest").hidden = rows.length <= FIRST;
  of("rest").textContent = `Show ${rows.length - FIRST} weaker ones`;
  of("steer").href = `/steer?${new URLSearchParams(placeOf(clip))}`;
  of("result").hidden = false;
  of("heading").focus({ preventScroll: true });
}

function row(concept, token_s, span, steered) {
  const most = Math.max(...concept.activations), strongest = (concept.activations.indexOf(most) + 0.5) * token_s;
  const full = Math.max(most, concept.maximum);
  const step = WIDTH / concept.activations.length;
  const line = concept.activations.map((value, index) => {
    const y = (HEIGHT - 1 - (HEIGHT - 3) * value / full).toFixed(1);
    return `L${(index * step).toFixed(1)} ${y}L${((index + 1) * step).toFixed(1)} ${y}`;
  }).join("");
  const trace = make("div", { className: "trace" }, shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    shape("path", { d: `M0 ${HEIGHT - 1}${line}L${WIDTH} ${HEIGHT - 1}z` })), make("i", { className: "playhead" }));
  trace.addEventListener("click", (event) => {
    const box = trace.getBoundingClientRect();
    sound.seek((event.clientX - box.left) / box.width * span);
  });
  const bar = make("meter", { min: 0, max: 1, value: Math.min(1, concept.share) });
  bar.setAttribute("aria-hidden", "true");
  const times = concept.share >= 0.995 ? `${concept.share.toFixed(1)}×` : concept.share.toFixed(2);
  const name = make("p", { className: "name" }, make("a", { href: concept.page }, concept.name), make("small", {}, ` ${concept.feature}`));
  if (run.answers) {
    const steer = make("a", { href: steered, className: "steer" }, "steer");
    steer.setAttribute("aria-label", `Steer ${concept.name}`);
    name.append(" ", steer);
  }
  return make("li", {}, name,
    make("p", { className: "share" }, bar, make("span", {}, times, make("span", { className: "hidden" }, ` of its strongest probing clip; strongest at ${strongest.toFixed(1)} s`))), trace);
}

of("rest").addEventListener("click", () => {
  for (const one of of("fired").children) one.hidden = false;
  of("rest").hidden = true;
  of("fired").children[FIRST].querySelector("a").focus({ preventScroll: true });
});
document.addEventListener("keydown", (event) => {
  if (event.key === " " && sound && !event.target.closest("button, input, select, a, summary")) {
    event.preventDefault();
    sound.toggle();
  }
});

async function start() {
  run = await about();
  of("steer").hidden = !run.answers;
  chooser(of("choosing"), run, hear);
  if (run.state !== "ready" && run.state !== "loading") trouble(new Error(`Nothing can be listened to: ${run.state}`));
}

start().catch(trouble);
