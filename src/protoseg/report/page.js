"use strict";
document.documentElement.classList.add("js");
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// Pictures: two layers, a line between them.
for (const pictures of all(".pictures")) {
  const chosen = (name) => pictures.querySelector(".controls [name=" + name + "]");
  const showLayers = () => {
    for (const layer of all(".layer", pictures)) {
      layer.classList.toggle("left", layer.dataset.layer === chosen("left").value);
      layer.classList.toggle("right", layer.dataset.layer === chosen("right").value);
    }
    for (const stack of all(".stack", pictures)) stack.style.setProperty("--opacity", chosen("opacity").value / 100);
  };
  for (const name of ["left", "right", "opacity"]) chosen(name).addEventListener("input", showLayers);
  showLayers();
}
for (const example of all(".example")) {
  const stack = example.querySelector(".stack"), slider = example.querySelector(".wipe");
  const move = () => stack.style.setProperty("--wipe", slider.value + "%");
  const drag = (event) => {
    const box = stack.getBoundingClientRect();
    slider.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    move();
  };
  slider.addEventListener("input", move);
  stack.addEventListener("pointerdown", (event) => { stack.setPointerCapture(event.pointerId); drag(event); });
  stack.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  stack.addEventListener("dragstart", (event) => event.preventDefault());
  move();
}

// Curves: the numbers at a step.
for (const chart of all(".chart")) {
  const points = JSON.parse(chart.dataset.points), cursor = chart.querySelector(".cursor");
  const output = chart.closest("figure").querySelector("output");
  let current = points.x.length - 1;
  const show = (i) => {
    current = Math.max(0, Math.min(points.x.length - 1, i));
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, points.at[current]);
    cursor.setAttribute("visibility", "visible");
    const values = points.names.map((name, k) => [name, points.values[k][current]]).filter((pair) => pair[1] !== null);
    output.textContent = "step " + points.x[current] + ": " + values.map((pair) => pair[0] + " " + pair[1] + points.unit).join(", ");
  };
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    show(points.at.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(points.at[best] - x) ? i : best), 0));
  });
  chart.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); output.textContent = ""; });
  chart.addEventListener("focus", () => { if (chart.matches(":focus-visible")) show(current); });
  chart.addEventListener("blur", () => { cursor.setAttribute("visibility", "hidden"); output.textContent = ""; });
  chart.addEventListener("keydown", (event) => {
    const jump = { ArrowLeft: -1, ArrowRight: 1, Home: -points.x.length, End: points.x.length }[event.key];
    if (jump === undefined) return;
    event.preventDefault();
    show(current + jump);
  });
}
