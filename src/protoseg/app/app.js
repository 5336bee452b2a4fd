"use strict";
document.documentElement.classList.add("js");
const by = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const NONE = 255, NOBODY = 65535, LISTED = 200, LARGEST_FIT = 8;
const RAMP = [[0, 32, 77], [49, 68, 107], [102, 105, 112], [149, 143, 120], [202, 185, 105], [255, 234, 70]]; // as bright as probable
const LAYERS = {
  mask: { name: "Mask", plane: "label", of: "label", says: "What the linear classifier says." },
  nearest: { name: "Nearest prototype", plane: "prototype", of: "prototype", says: "The class of the nearest of all prototypes." },
  truth: { name: "Truth", plane: "truth", of: "truth", says: "The mask of the data set." },
  confidence: { name: "Confidence", plane: "confidence", of: "label", says: "The probability of the mask's class." },
  disagreement: { name: "Disagreement", plane: "disagreement", of: "prototype", says: "Where linear classifier and nearest prototype differ." },
  followed: { name: "Which prototype", plane: "followed", of: "prototype", says: "The prototype that each pixel follows: a shade of its class." },
};
let state = null; // what can be chosen
let image = null; // the id of the one that is shown
let look = null; // what the model says of it, its planes among it
let only = null; // the value that alone is painted
let asked = null; // aborts the question that is on its way
let place = null; // [column, row] that the keyboard reads
const bands = {}; // number of channels -> the three that are shown

// Words and numbers.
const percent = (share) => (share >= 0.9995 ? "100" : share > 0 && share < 0.0005 ? "< 0.1" : (100 * share).toFixed(1)) + " %";
const css = (color) => `rgb(${color.join(" ")})`;
function made(tag, content = [], properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...(Array.isArray(content) ? content : [content]));
  return element;
}
function swatch(color) {
  const element = made("span", [], { className: "swatch" });
  element.style.background = css(color);
  return element;
}
function say(id, text, wrong = false) {
  by(id).textContent = text;
  by(id).classList.toggle("error", wrong);
}
const prototypeName = (number) => `${look.classes[Math.floor(number / look.prototypes)].name} #${(number % look.prototypes) + 1}`;

async function answer(address, options = {}) {
  const response = await fetch(address, options);
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error || `the app answers ${response.status}`);
}
const gone = "the app does not answer: does it still run in its terminal?";
const sentence = (error) => (error instanceof TypeError ? gone : error.message);

// The list.
async function refresh() {
  state = await (await answer("/state")).json();
  by("folder").textContent = state.folder ? "· " + state.folder : "";
  say("taken", state.note);
  if (!by("model").options.length) by("model").append(...state.models.map((name, i) => made("option", name, { value: i })));
  by("model").disabled = state.models.length < 2;
  by("files").accept = state.suffixes.join(",");
  list();
}
function found() {
  const words = by("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  return state.images.filter((entry) => words.every((word) => `${entry.name} ${entry.role}`.toLowerCase().includes(word)));
}
function list() {
  const entries = found(), shown = entries.slice(0, LISTED);
  by("list").replaceChildren(...shown.map((entry) => {
    const picture = made("img", [], { src: `/thumb?image=${entry.id}&session=${state.session}`, alt: "", loading: "lazy", width: 64, height: 48 });
    const words = made("span", [made("span", entry.name, { className: "name" }), ...(entry.role ? [made("small", entry.role)] : [])]);
    const button = made("button", [picture, words], { type: "button", title: entry.name, onclick: () => choose(entry.id) });
    button.dataset.id = entry.id;
    return made("li", button);
  }));
  const rest = entries.length - shown.length;
  by("more").textContent = rest ? `and ${rest.toLocaleString("en")} more: type a part of the name` : entries.length || !state.images.length ? "" : "none of that name";
  by("finder").hidden = state.images.length < 8;
  document.querySelector(".pager").hidden = state.images.length < 2;
  markCurrent();
}
function markCurrent() {
  for (const button of all("#list button")) button.setAttribute("aria-current", button.dataset.id === image);
  const entries = found(), at = entries.findIndex((entry) => entry.id === image);
  by("before").disabled = at <= 0;
  by("after").disabled = at >= entries.length - 1;
}
function step(by_) {
  const entries = found(), at = entries.findIndex((entry) => entry.id === image), next = entries[at + by_];
  if (next) choose(next.id);
}

// One image.
function choose(id) {
  image = id;
  const entry = state.images.find((one) => one.id === id);
  by("title").textContent = entry.name;
  document.title = `${entry.name}: protoseg app`;
  by("photo").alt = entry.name;
  clear();
  showPhoto();
  markCurrent();
  const current = document.querySelector("#list [aria-current=true]");
  if (current) current.scrollIntoView({ block: "nearest", inline: "nearest" });
  ask();
}
function clear() {
  look = null;
  place = null;
  by("key").hidden = by("tip").hidden = by("mark").hidden = by("bands").hidden = true; // of these channels nothing is known yet
  by("over").width = 0;
  by("readout").textContent = "";
  by("notes").replaceChildren();
}
function showPhoto() {
  const chosen = look && bands[look.channels];
  const address = `/picture?image=${image}&session=${state.session}` + (chosen ? `&bands=${chosen.join(",")}` : "");
  if (by("photo").getAttribute("src") !== address) by("photo").src = address;
}
async function ask() {
  if (asked) asked.abort();
  const mine = (asked = new AbortController()), start = performance.now();
  document.body.classList.add("busy");
  const query = `model=${by("model").value}&image=${image}`;
  const tick = async () => {
    const seconds = Math.round((performance.now() - start) / 1000);
    // A large image is seen in pieces.
    const { done, of } = seconds < 2 ? {} : await answer(`/progress?${query}`).then((response) => response.json()).catch(() => ({}));
    if (asked === mine) say("status", `looking at it${of > 1 ? `, ${done} of ${of} pieces` : ""}, ${seconds} s`);
  };
  tick();
  const clock = setInterval(tick, 1000);
  try {
    const response = await answer(`/look?${query}`, { signal: mine.signal });
    const buffer = await response.arrayBuffer();
    if (mine.signal.aborted) return;
    asked = null;
    read(buffer);
    say("status", "");
  } catch (error) {
    if (mine.signal.aborted) return;
    asked = null;
    clear();
    say("status", sentence(error), true);
  } finally {
    clearInterval(clock);
    if (!asked) document.body.classList.remove("busy");
  }
}
function read(buffer) {
  const length = new DataView(buffer).getUint32(0);
  look = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const [columns, rows] = look.shown, size = columns * rows;
  const plane = Object.fromEntries(look.planes.map((name, i) => [name, new Uint8Array(buffer, 4 + length + i * size, size)]));
  plane.followed = plane.followed_high && Uint16Array.from(plane.followed_high, (high, i) => (high << 8) | plane.followed_low[i]);
  look.plane = plane;
  look.has = { label: true, prototype: look.prototypes > 0, truth: plane.truth.some((value) => value !== NONE) };
  for (const part of all(".of")) part.hidden = !look.has[part.dataset.of];
  if (!look.has[LAYERS[layer()].of]) by("l-mask").checked = true;
  only = null;
  by("notes").replaceChildren(...look.notes.map((note) => made("li", note)));
  by("facts").textContent = `${look.size[0].toLocaleString("en")} × ${look.size[1].toLocaleString("en")} pixels, ${look.channels} channel${look.channels > 1 ? "s" : ""}. The model looks at ${look.seen}. It took ${look.seconds} s.`;
  for (const link of all("[data-what]")) link.href = `/download?model=${by("model").value}&image=${image}&what=${link.dataset.what}`;
  by("key").hidden = false;
  offerBands();
  showPhoto();
  paint();
  fit();
}
function offerBands() {
  const choosable = !look.photograph && look.channels >= 3;
  by("bands").hidden = !choosable;
  if (!choosable) return;
  bands[look.channels] ??= [0, 1, 2];
  all(".band").forEach((select, i) => {
    select.replaceChildren(...Array.from({ length: look.channels }, (_, band) => made("option", `band ${band + 1}`, { value: band })));
    select.value = bands[look.channels][i];
  });
}

// What lies over it.
const layer = () => document.querySelector("[name=layer]:checked").value;
function values() {
  // Of the layer: value -> [name, colour]; those without a colour are not painted.
  const classes = new Map(look.classes.map((one, i) => [i, [one.name, one.color]]));
  const kinds = new Map(look.disagreement.map((one, i) => [i, [one.name, i ? one.color : null]]));
  const prototypes = new Map(look.tones.flatMap((tones, c) => tones.map((tone, k) => [c * look.prototypes + k, [prototypeName(c * look.prototypes + k), tone]])));
  return { disagreement: kinds, followed: prototypes }[layer()] || classes;
}
const probable = (value) => {
  const at = (value / 255) * (RAMP.length - 1), low = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[low].map((part, i) => Math.round(part + (at - low) * (RAMP[low + 1][i] - part)));
};
function paint() {
  const { name, plane, says } = LAYERS[layer()], [columns, rows] = look.shown, read = look.plane[plane];
  const isRamp = layer() === "confidence", table = new Uint32Array(65536), bytes = new Uint8Array(table.buffer), named = values();
  const colors = isRamp ? Array.from({ length: 256 }, (_, value) => [value, probable(value)]) : [...named].map(([value, [, color]]) => [value, color]);
  for (const [value, color] of colors) if (color && (isRamp || only === null || only === value)) bytes.set([...color, 255], 4 * value);
  const canvas = by("over"), pixels = new ImageData(columns, rows), target = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < read.length; i++) target[i] = table[read[i]];
  [canvas.width, canvas.height] = [columns, rows];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  canvas.style.opacity = by("opacity").value / 100;
  by("h-key").textContent = name;
  by("meaning").textContent = says + (isRamp ? "" : " Click on a name to see it alone.");
  by("ramp").hidden = !isRamp;
  by("legend").hidden = isRamp;
  if (!isRamp) legend(named, read);
}
function legend(named, read) {
  const counts = new Uint32Array(65536);
  for (const value of read) counts[value]++;
  const rows = [...named].filter(([value]) => counts[value]).sort((one, other) => counts[other[0]] - counts[one[0]]);
  by("legend").replaceChildren(...rows.map(([value, [name, color]]) => {
    const button = made("button", [color ? swatch(color) : made("span"), made("span", name), made("span", percent(counts[value] / read.length))], { type: "button" });
    button.dataset.value = value;
    button.setAttribute("aria-pressed", only === value);
    button.disabled = !color;
    button.onclick = () => {
      only = only === value ? null : value;
      paint();
      const again = by("legend").querySelector(`[data-value="${value}"]`);
      if (again) again.focus();
    };
    return made("li", button);
  }));
}

// What stands at a pixel.
function words(column, row) {
  const i = row * look.shown[0] + column, at = (name) => look.plane[name][i];
  const className = (value) => (value === NONE ? "not labelled" : look.classes[value].name);
  const lines = [`${className(at("label"))} ${percent(at("confidence") / 255)}`];
  if (look.has.prototype) {
    const followed = at("followed");
    lines.push(followed === NOBODY ? `prototypes: ${className(at("prototype"))}` : `prototype ${prototypeName(followed)} ${percent(at("certainty") / 255)}`);
    if (at("disagreement")) lines.push(look.disagreement[at("disagreement")].name);
  }
  if (look.has.truth) lines.push(`truth: ${className(at("truth"))}`);
  return { lines, color: look.classes[at("label")].color };
}
function tell(column, row, pointer) {
  const [columns, rows] = look.shown, { lines, color } = words(column, row);
  const x = Math.floor(((column + 0.5) / columns) * look.size[0]), y = Math.floor(((row + 0.5) / rows) * look.size[1]);
  by("readout").textContent = `${lines.join(" · ")} · column ${x}, row ${y}`;
  const tip = by("tip"), stage = by("stage");
  tip.replaceChildren(made("b", [swatch(color), lines[0]]), ...lines.slice(1).map((line) => made("div", line)));
  tip.hidden = false;
  const left = ((column + 0.5) / columns) * stage.clientWidth, top = ((row + 0.5) / rows) * stage.clientHeight;
  // Beside the pointer, on the side where there is room, and never outside of what is seen of the stage.
  const frame = by("frame"), beside = (at, size, start, length) => {
    const after = at + 15 + size <= start + length ? at + 15 : at - 15 - size;
    return `${Math.max(start, Math.min(after, start + length - size))}px`;
  };
  tip.style.left = beside(left, tip.offsetWidth, frame.scrollLeft - stage.offsetLeft, frame.clientWidth);
  tip.style.top = beside(top, tip.offsetHeight, frame.scrollTop - stage.offsetTop, frame.clientHeight);
  by("mark").hidden = pointer;
  Object.assign(by("mark").style, { left: `${left}px`, top: `${top}px` });
}
function point(event) {
  if (!look) return;
  const box = by("over").getBoundingClientRect(), [columns, rows] = look.shown;
  const inside = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value * most)));
  place = [inside((event.clientX - box.left) / box.width, columns), inside((event.clientY - box.top) / box.height, rows)];
  tell(...place, true);
}
by("stage").addEventListener("pointermove", point);
by("stage").addEventListener("pointerdown", point);
by("stage").addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") { by("tip").hidden = true; by("readout").textContent = ""; } });
by("stage").addEventListener("blur", () => { by("tip").hidden = by("mark").hidden = true; });
by("stage").addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move || !look) return;
  event.preventDefault();
  const pace = event.shiftKey ? 1 : 10, middle = look.shown.map((side) => Math.floor(side / 2));
  place = place ? place.map((at, i) => Math.max(0, Math.min(look.shown[i] - 1, at + pace * move[i]))) : middle;
  tell(...place, false);
});

// Its size.
function fit() {
  const [width, height] = [by("photo").naturalWidth, by("photo").naturalHeight];
  if (!width) return;
  by("stage").hidden = false;
  by("empty").hidden = true;
  const frame = by("frame"), most = Math.max(200, innerHeight * (innerWidth <= 700 ? 0.6 : 0.74));
  const scale = by("zoom").value === "fit" ? Math.min(frame.clientWidth / width, most / height, LARGEST_FIT) : Number(by("zoom").value);
  Object.assign(by("stage").style, { width: `${Math.floor(width * scale)}px`, height: `${Math.floor(height * scale)}px` });
  by("stage").classList.toggle("coarse", scale >= 3);
}
by("photo").addEventListener("load", fit);
by("photo").addEventListener("error", () => { by("stage").hidden = true; by("empty").hidden = false; });
addEventListener("resize", fit);

// Controls.
by("model").addEventListener("input", () => { if (image) ask(); });
by("zoom").addEventListener("input", fit);
by("opacity").addEventListener("input", () => { by("over").style.opacity = by("opacity").value / 100; });
for (const radio of all("[name=layer]")) radio.addEventListener("input", () => { only = null; if (look) paint(); });
for (const [i, select] of all(".band").entries()) select.addEventListener("input", () => {
  if (by("bands").hidden) return;
  bands[look.channels][i] = Number(select.value);
  showPhoto();
});
by("find").addEventListener("input", list);
by("before").addEventListener("click", () => step(-1));
by("after").addEventListener("click", () => step(1));
by("ramp").querySelector("i").style.background = `linear-gradient(to right, ${RAMP.map(css).join(", ")})`;

// Files that are dropped, chosen or pasted.
async function take(files) {
  let first = null, problem = "";
  for (const [i, file] of [...files].entries()) {
    say("taken", `taking ${file.name} (${i + 1} of ${files.length})`);
    try {
      if (file.size > state.most_bytes) throw new Error(`${file.name} has ${Math.round(file.size / 1e6)} MB, and at most ${Math.round(state.most_bytes / 1e6)} MB are taken`);
      const said = await answer(`/upload?name=${encodeURIComponent(file.name)}`, { method: "POST", headers: { "X-Protoseg": "upload" }, body: file });
      first ??= (await said.json()).id;
    } catch (error) {
      problem = sentence(error);
    }
  }
  if (first) {
    by("find").value = "";
    await refresh();
    choose(first);
  }
  say("taken", problem, true);
}
by("files").addEventListener("change", () => { take([...by("files").files]).finally(() => { by("files").value = ""; }); });
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) take([...event.clipboardData.files]); });

refresh().then(() => { if (state.images.length) choose(state.images[0].id); }, (error) => say("status", sentence(error), true));
