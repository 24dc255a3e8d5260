import { about, chooser, described, make, of, placeOf, player, read, stream, trouble, waiting } from "/app.js";

const HIGHEST = 8, STEP = 0.25, LETTERS = "ABCD";
let run = null, all = [], clip = null, sound = null, kept = null, current = null;
const concepts = [], settings = [];

// ---- the clip
async function choose(chosen) {
  trouble(null);
  try {
    clip = await described(chosen);
  } catch (error) {
    return trouble(error);
  }
  sound?.audio.pause();
  sound = player(clip);
  of("player").replaceChildren(sound);
  of("chooser").open = false;
  of("chooser").querySelector("summary").textContent = "Choose another clip";
  stale();
}

// ---- the concepts, and the settings: one slider for each of them
function add(concept) {
  if (concepts.some((other) => other.feature === concept.feature)) return;
  concepts.push(concept);
  for (const setting of settings) setting.set(concept, setting === settings[0] ? 2 : 0);
  const chip = make("button", { type: "button" }, `${concept.name} `, make("span", { "aria-hidden": "true" }, "×"));
  chip.setAttribute("aria-label", `Remove ${concept.name}`);
  chip.addEventListener("click", () => {
    concepts.splice(concepts.indexOf(concept), 1);
    for (const setting of settings) setting.unset(concept);
    chip.remove();
    stale();
  });
  of("chosen").append(chip);
  stale();
}

function addSetting(values = new Map()) {
  const letter = LETTERS[settings.length], rows = new Map();
  const sliders = make("div", { className: "sliders" }), said = make("p", { className: "said" });
  const card = make("article", { className: "answer set" }, make("h3", {}, `Setting ${letter}`), sliders, said);
  const setting = {
    card,
    set(concept, value) {
      const slider = make("input", { type: "range", min: 0, max: HIGHEST, step: STEP, value });
      const shown = make("output", {});
      const label = make("label", {}, make("span", {}, concept.name), shown, slider);
      const show = () => {
        shown.textContent = Number(slider.value) ? `${Number(slider.value)}×` : "not set";
        slider.setAttribute("aria-valuetext", Number(slider.value) ? `${Number(slider.value)} times its maximum` : "not set");
      };
      slider.addEventListener("input", () => { show(); stale(); });
      show();
      rows.set(concept.feature, { label, slider });
      sliders.append(label);
    },
    unset(concept) {
      rows.get(concept.feature)?.label.remove();
      rows.delete(concept.feature);
    },
    values: () => [...rows].map(([feature, { slider }]) => ({ feature, value: Number(slider.value) })),
  };
  for (const concept of concepts) setting.set(concept, values.get(concept.feature) ?? 0);
  settings.push(setting);
  of("answers").append(card);
  of("more").hidden = settings.length === run.limits.settings;
  if (settings.length > 1) stale();
}

function find() {
  const words = of("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.length ? all.filter((one) => words.every((word) => `${one.feature} ${one.name}`.toLowerCase().includes(word))).slice(0, 8) : [];
  of("found").replaceChildren(...found.map((one) => {
    const speaks = one.speaks.length ? ` · speaks for ${one.speaks.join(", ")}` : "";
    const button = make("button", { type: "button" }, make("span", {}, one.name), make("small", {}, `feature ${one.feature}${speaks}`));
    button.addEventListener("click", () => { add(one); of("search").value = ""; find(); of("search").focus(); });
    return make("li", {}, button);
  }));
  if (words.length && !found.length) of("found").append(make("li", { className: "note" }, "No concept has these words."));
}

// ---- asking
const cards = () => [of("unsteered"), of("passed"), ...settings.map((setting) => setting.card)];
const answerOf = (card) => card.querySelector(".said");
function stale() {
  for (const card of cards()) card.classList.add("stale");
}

function asked() {
  return {
    clip: placeOf(clip), prompt: of("prompt").value, settings: settings.map((setting) => setting.values()),
    keep_error: of("keep_error").checked, positions: of("positions").value, phase: of("phase").value,
    max_new_tokens: Number(of("max_new_tokens").value),
  };
}

async function answer() {
  trouble(null);
  if (!clip) return trouble(new Error("Choose a clip first."));
  current = new AbortController();
  busy(true);
  of("calls").hidden = true;
  const shown = cards();
  for (const card of shown) {
    card.classList.remove("stale", "same");
    answerOf(card).textContent = "";
  }
  try {
    await stream("/api/steer", asked(), current.signal, (told) => {
      of("status").textContent = waiting(told) || of("status").textContent;
      if (told.text !== undefined) {
        shown.forEach((card, index) => card.classList.toggle("speaking", index === told.answer));
        answerOf(shown[told.answer]).textContent = told.text;
      }
      if (told.answers) finish(shown, told);
    });
  } catch (error) {
    of("status").textContent = error.name === "AbortError" ? "Stopped." : "";
    trouble(error);
  } finally {
    for (const card of shown) card.classList.remove("speaking");
    busy(false);
  }
}

function busy(is) {
  of("ask").disabled = is;
  of("more").disabled = is;
  of("stop").hidden = !is;
}

function finish(shown, { answers, record }) {
  kept = record;
  answers.forEach((text, index) => {
    answerOf(shown[index]).textContent = text || "(an empty answer)";
    shown[index].classList.toggle("same", index > 0 && text === answers[0]);
  });
  of("status").textContent = `${answers.length} answers.`;
  of("python").textContent = record.python;
  of("command").textContent = record.settings.map((setting) => setting.command_line).join("\n");
  of("calls").hidden = false;
}

function save() {
  const link = make("a", { href: URL.createObjectURL(new Blob([JSON.stringify(kept, null, 2)], { type: "application/json" })), download: "steered.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

of("asking").addEventListener("submit", (event) => { event.preventDefault(); answer(); });
of("stop").addEventListener("click", () => current?.abort());
of("more").addEventListener("click", () => addSetting(new Map(settings.at(-1).values().map(({ feature, value }) => [feature, value]))));
of("search").addEventListener("input", find);
of("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); of("found").querySelector("button")?.click(); }
  if (event.key === "ArrowDown") { event.preventDefault(); of("found").querySelector("button")?.focus(); }
});
of("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !of("ask").disabled) answer();
});
of("prompt").addEventListener("input", stale);
for (const id of ["keep_error", "positions", "phase", "max_new_tokens"]) of(id).addEventListener("change", () => { zero(); stale(); });
of("keep").addEventListener("click", save);
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const pre = button.parentElement.querySelector("pre");
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "Copied";
    } catch { // not allowed here: select it instead
      getSelection().selectAllChildren(pre);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

function zero() {
  of("zero").textContent = of("keep_error").checked
    ? "A concept at 0 is not set. With all at 0, a setting gives the unsteered answer to the last bit. Other values are multiples of the concept’s largest activation in the probing set."
    : "A concept at 0 is not set. With all at 0, a setting gives the answer passed through the SAE. Other values are multiples of the concept’s largest activation in the probing set.";
}

async function start() {
  run = await about();
  if (!run.answers) {
    for (const part of document.querySelectorAll("#asking, main > section")) part.hidden = true;
    throw new Error(`${run.model} is an encoder, which hears and does not answer: there is nothing to steer. Listen shows what fires in it.`);
  }
  if (run.state !== "ready" && run.state !== "loading") trouble(new Error(`Nothing can be steered: ${run.state}`));
  of("max_new_tokens").max = run.limits.tokens;
  of("prompt").maxLength = run.limits.prompt;
  const prompts = [...run.prompts, "What do you hear?"];
  of("prompt").value = prompts[0];
  of("prompts").append(...prompts.map((prompt) => {
    const button = make("button", { type: "button" }, prompt);
    button.addEventListener("click", () => { of("prompt").value = prompt; stale(); });
    return button;
  }));
  chooser(of("choosing"), run, choose);
  addSetting();
  zero();
  all = await read("/api/concepts");
  const wanted = new URLSearchParams(location.search);
  for (const feature of wanted.getAll("feature").filter((text) => /^\d+$/.test(text)).map(Number))
    add(all.find((one) => one.feature === feature) || { feature, name: `feature ${feature}` });
  const place = Object.fromEntries([...wanted].filter(([name]) => ["dropped", "split", "id"].includes(name)));
  if (Object.keys(place).length) await choose(place);
  busy(false);
}

start().catch(trouble);
