"use strict";
document.documentElement.classList.add("js");
const by = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const NONE = 255, NOBODY = 65535, LISTED = 200, LARGEST_FIT = 8, AROUND = 0.25;
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
let place = null; // [x, y] in the image's own pixels that the keyboard or the pointer reads
let near = null; // a part of a large image pixel by pixel: its box [top, left, height, width], its planes
let zoomed = "fit"; // the zoom before the one that is being chosen
let nearing = null; // aborts the question for it
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
  if (current) {
    // Not by scrollIntoView: Tab would go on from there, past the link that leads to the image.
    const [outer, inner] = [by("list"), current].map((element) => element.getBoundingClientRect());
    const shift = (start, end) => Math.min(0, inner[start] - outer[start]) + Math.max(0, inner[end] - outer[end]);
    by("list").scrollBy(shift("left", "right"), shift("top", "bottom"));
  }
  ask();
}
function clear() {
  look = place = null;
  leave();
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
  by("status").ariaLive = "polite";
  document.body.classList.add("busy");
  const query = `model=${by("model").value}&image=${image}`;
  const tick = async () => {
    const seconds = Math.round((performance.now() - start) / 1000);
    // A large image is seen in pieces.
    const { done, of } = seconds < 2 ? {} : await answer(`/progress?${query}`).then((response) => response.json()).catch(() => ({}));
    if (asked !== mine) return;
    say("status", `looking at it${of > 1 ? `, ${done} of ${of} pieces` : ""}, ${seconds} s`);
    by("status").ariaLive = "off"; // a screen reader says it once, and not every second
  };
  tick();
  const clock = setInterval(tick, 1000);
  try {
    const response = await answer(`/look?${query}`, { signal: mine.signal });
    const buffer = await response.arrayBuffer();
    if (mine.signal.aborted) return;
    asked = null;
    read(buffer);
    by("status").ariaLive = "polite";
    say("status", "");
    by("readout").textContent = summary();
  } catch (error) {
    if (mine.signal.aborted) return;
    asked = null;
    clear();
    by("status").ariaLive = "polite";
    say("status", sentence(error), true);
  } finally {
    clearInterval(clock);
    if (!asked) document.body.classList.remove("busy");
  }
}
function read(buffer) {
  const length = new DataView(buffer).getUint32(0);
  look = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  look.plane = unpacked(buffer, 4 + length, look.shown[0] * look.shown[1]);
  look.has = { label: true, prototype: look.prototypes > 0, truth: look.plane.truth.some((value) => value !== NONE) };
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
function unpacked(buffer, start, size) {
  const plane = Object.fromEntries(look.planes.map((name, i) => [name, new Uint8Array(buffer, start + i * size, size)]));
  plane.followed = Uint16Array.from(plane.followed_high, (high, i) => (high << 8) | plane.followed_low[i]);
  return plane;
}
function offerBands() {
  const choosable = !look.photograph && look.channels >= 2;
  by("bands").hidden = !choosable;
  if (!choosable) return;
  bands[look.channels] ??= look.channels === 2 ? [0, 0, 0] : [0, 1, 2]; // as the image is shown before anything is chosen
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
  const { name, plane, says } = LAYERS[layer()], isRamp = layer() === "confidence", named = values();
  cover(by("over"), look.shown, look.plane[plane], named);
  if (near) cover(by("near-over"), [near.box[3], near.box[2]], near.plane[plane], named);
  by("h-key").textContent = name;
  by("meaning").textContent = says + (isRamp ? "" : " Click on a name to see it alone.");
  by("ramp").hidden = !isRamp;
  by("legend").hidden = isRamp;
  if (!isRamp) legend(named, look.plane[plane]);
}
function cover(canvas, [columns, rows], read, named) {
  const isRamp = layer() === "confidence", table = new Uint32Array(65536), bytes = new Uint8Array(table.buffer);
  const colors = isRamp ? Array.from({ length: 256 }, (_, value) => [value, probable(value)]) : [...named].map(([value, [, color]]) => [value, color]);
  for (const [value, color] of colors) if (color && (isRamp || only === null || only === value)) bytes.set([...color, 255], 4 * value);
  const pixels = new ImageData(columns, rows), target = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < read.length; i++) target[i] = table[read[i]];
  [canvas.width, canvas.height] = [columns, rows];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
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
const own = () => (look ? look.size : [by("photo").naturalWidth, by("photo").naturalHeight]);
const reduced = () => look !== null && look.size[0] * look.size[1] > look.shown[0] * look.shown[1];
function read_at(x, y) {
  // [planes, where in them, column, row]: of the pixel itself, or of the one that stands for those around it.
  const [column, row] = [Math.floor(x), Math.floor(y)];
  if (near) {
    const [top, left, height, width] = near.box;
    if (row >= top && row < top + height && column >= left && column < left + width) return [near.plane, (row - top) * width + column - left, column, row];
  }
  const [i, j] = look.shown.map((side, k) => Math.floor(([x, y][k] * side) / look.size[k]));
  const middle = (at, k) => Math.floor(((at + 0.5) / look.shown[k]) * look.size[k]);
  return [look.plane, j * look.shown[0] + i, middle(i, 0), middle(j, 1)];
}
function words(plane, i) {
  const at = (name) => plane[name][i];
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
function summary() {
  // Who cannot see the mask hears this as soon as it is there.
  const largest = look ? look.classes.filter((one) => one.share).sort((one, other) => other.share - one.share).slice(0, 3) : [];
  return largest.length ? `mostly ${largest.map((one) => `${one.name} ${percent(one.share)}`).join(", ")}` : "";
}
function tell(pointer) {
  const [plane, i, column, row] = read_at(...place), { lines, color } = words(plane, i);
  by("readout").textContent = `${lines.join(" · ")} · column ${column}, row ${row}`;
  const tip = by("tip"), stage = by("stage");
  tip.replaceChildren(made("b", [swatch(color), lines[0]]), ...lines.slice(1).map((line) => made("div", line)));
  tip.hidden = false;
  const left = (place[0] / look.size[0]) * stage.clientWidth, top = (place[1] / look.size[1]) * stage.clientHeight;
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
  const box = by("stage").getBoundingClientRect();
  const inside = (share, side) => Math.max(0, Math.min(side - 0.5, share * side));
  place = [inside((event.clientX - box.left) / box.width, look.size[0]), inside((event.clientY - box.top) / box.height, look.size[1])];
  tell(true);
}
const quiet = () => { by("tip").hidden = by("mark").hidden = true; };
by("stage").addEventListener("pointermove", (event) => {
  if (event.pointerType === "mouse" && event.buttons & 1) by("frame").scrollBy(-event.movementX, -event.movementY);
  point(event);
});
by("stage").addEventListener("pointerdown", point);
by("stage").addEventListener("dragstart", (event) => event.preventDefault());
by("stage").addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") { by("tip").hidden = true; by("readout").textContent = summary(); } });
by("stage").addEventListener("blur", quiet);
by("stage").addEventListener("keydown", (event) => {
  if (!look || event.ctrlKey || event.metaKey || event.altKey) return;
  const turn = { "+": 1, "=": 1, "-": -1 }[event.key];
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!turn && !move) return;
  event.preventDefault();
  if (turn) {
    const next = by("zoom").selectedIndex + turn;
    if (by("zoom").options[next]) zoom(by("zoom").options[next].value, place || middle());
    if (place) tell(false);
    return;
  }
  // In steps of what is seen: a pixel of the picture, or of the image where it is shown pixel by pixel.
  const pace = event.shiftKey ? 1 : 10, step = look.size.map((side, k) => (by("zoom").value === "fit" ? side / look.shown[k] : 1));
  place = place ? place.map((at, k) => Math.max(step[k] / 2, Math.min(look.size[k] - step[k] / 2, at + pace * step[k] * move[k]))) : middle();
  reveal();
  tell(false);
});
function middle() {
  // Of what is seen of the image, and of a pixel there.
  const frame = by("frame"), stage = by("stage");
  const seen = [[frame.scrollLeft - stage.offsetLeft, frame.clientWidth, stage.clientWidth], [frame.scrollTop - stage.offsetTop, frame.clientHeight, stage.clientHeight]];
  return seen.map(([start, length, whole], k) => {
    const step = by("zoom").value === "fit" ? own()[k] / (look ? look.shown[k] : own()[k]) : 1;
    const share = (Math.max(0, start) + Math.min(whole, start + length)) / 2 / whole;
    return (Math.min(Math.floor((share * own()[k]) / step), Math.ceil(own()[k] / step) - 1) + 0.5) * step;
  });
}
function reveal() {
  const frame = by("frame"), stage = by("stage"), room = 40;
  const shift = (at, start, length) => (at < start + room ? at - start - room : at > start + length - room ? at - start - length + room : 0);
  const [left, top] = place.map((at, k) => (at / look.size[k]) * [stage.clientWidth, stage.clientHeight][k]);
  frame.scrollBy(shift(left + stage.offsetLeft, frame.scrollLeft, frame.clientWidth), shift(top + stage.offsetTop, frame.scrollTop, frame.clientHeight));
}

// Its size.
function fit() {
  const [width, height] = own();
  if (!width) return;
  by("stage").hidden = false;
  by("empty").hidden = true;
  const frame = by("frame"), most = Math.max(200, innerHeight * (innerWidth <= 700 ? 0.6 : 0.74));
  const scale = by("zoom").value === "fit" ? Math.min(frame.clientWidth / width, most / height, LARGEST_FIT) : Number(by("zoom").value);
  Object.assign(by("stage").style, { width: `${Math.max(1, Math.floor(width * scale))}px`, height: `${Math.max(1, Math.floor(height * scale))}px` });
  by("stage").classList.toggle("coarse", scale >= 3);
  frame.classList.toggle("wide", by("stage").clientWidth > frame.clientWidth || by("stage").clientHeight > frame.clientHeight);
  approach();
}
function zoom(value, [x, y]) {
  // That pixel stays where it is seen, or comes to the middle where it was not seen.
  const frame = by("frame"), stage = by("stage");
  const seen = () => [(x / own()[0]) * stage.clientWidth + stage.offsetLeft, (y / own()[1]) * stage.clientHeight + stage.offsetTop];
  const before = seen().map((at, k) => at - [frame.scrollLeft, frame.scrollTop][k]);
  by("zoom").value = zoomed = value;
  fit();
  const after = seen(), room = [frame.clientWidth, frame.clientHeight];
  const [left, top] = before.map((at, k) => after[k] - (at > 0 && at < room[k] ? at : room[k] / 2));
  frame.scrollTo(left, top);
}

// A part of a large image, pixel by pixel, as soon as it is shown larger than its picture is.
function leave() {
  if (nearing) nearing.abort();
  near = nearing = null;
  by("near").hidden = true;
}
let waiting = 0;
function approach() {
  clearTimeout(waiting);
  if (!reduced() || by("zoom").value === "fit") leave();
  else waiting = setTimeout(() => { nearer(); }, near || nearing ? 120 : 0);
}
function boxAround(share) {
  // [top, left, height, width] of what is seen, and so much more on every side.
  const frame = by("frame"), stage = by("stage");
  const along = (start, length, whole, side) => {
    const first = Math.floor(((start - share * length) / whole) * side), last = Math.ceil(((start + length + share * length) / whole) * side);
    return [Math.max(0, first), Math.min(side, last)];
  };
  const [left, right] = along(frame.scrollLeft - stage.offsetLeft, frame.clientWidth, stage.clientWidth, look.size[0]);
  const [top, bottom] = along(frame.scrollTop - stage.offsetTop, frame.clientHeight, stage.clientHeight, look.size[1]);
  return [top, left, bottom - top, right - left];
}
async function nearer() {
  const bandsOf = bands[look.channels] && !by("bands").hidden ? `&bands=${bands[look.channels].join(",")}` : "";
  const covers = ([top, left, height, width], [t, l, h, w]) => top <= t && left <= l && top + height >= t + h && left + width >= l + w;
  if (near && near.bands === bandsOf && covers(near.box, boxAround(0))) return;
  let box = boxAround(AROUND);
  if (box[2] * box[3] > state.most_near) box = boxAround(0);
  if (box[2] * box[3] > state.most_near) return; // a screen of more pixels than that shows the picture
  if (nearing) nearing.abort();
  const mine = (nearing = new AbortController()), picture = new Image();
  try {
    const of = `image=${image}&box=${box.join(",")}`;
    picture.src = `/part?${of}&session=${state.session}${bandsOf}`;
    const [buffer] = await Promise.all([
      answer(`/near?model=${by("model").value}&${of}`, { signal: mine.signal }).then((response) => response.arrayBuffer()),
      picture.decode(),
    ]);
    if (mine.signal.aborted) return;
    nearing = null;
    near = { box, bands: bandsOf, plane: unpacked(buffer, 0, box[2] * box[3]) };
    const [top, left, height, width] = box, [columns, rows] = look.size, share = (part, whole) => `${(100 * part) / whole}%`;
    by("near-photo").replaceWith(Object.assign(picture, { id: "near-photo", alt: "" })); // it is decoded: nothing flashes
    Object.assign(by("near").style, { left: share(left, columns), top: share(top, rows), width: share(width, columns), height: share(height, rows) });
    cover(by("near-over"), [width, height], near.plane[LAYERS[layer()].plane], values());
    by("near").hidden = false;
  } catch (error) {
    if (mine.signal.aborted) return;
    nearing = null;
    say("status", sentence(error), true);
  }
}
by("frame").addEventListener("scroll", approach);
by("stage").addEventListener("dblclick", (event) => {
  if (!look) return;
  point(event);
  const scale = by("stage").clientWidth / look.size[0], next = [...by("zoom").options].find((option) => Number(option.value) > scale * 1.01);
  zoom(by("zoom").value === "fit" && next ? next.value : "fit", place);
});
by("photo").addEventListener("load", fit);
by("photo").addEventListener("error", () => { by("stage").hidden = true; by("empty").hidden = false; });
addEventListener("resize", fit);

// Controls.
by("model").addEventListener("input", () => { if (image) ask(); });
by("zoom").addEventListener("input", () => {
  const value = by("zoom").value;
  by("zoom").value = zoomed;
  zoom(value, by("mark").hidden || !place ? middle() : place);
});
const fade = () => by("stage").style.setProperty("--opacity", by("opacity").value / 100);
by("opacity").addEventListener("input", fade);
fade();
for (const radio of all("[name=layer]")) radio.addEventListener("input", () => { only = null; if (look) paint(); });
for (const [i, select] of all(".band").entries()) select.addEventListener("input", () => {
  if (by("bands").hidden) return;
  bands[look.channels][i] = Number(select.value);
  showPhoto();
  approach();
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
