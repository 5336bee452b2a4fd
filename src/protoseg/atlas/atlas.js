
// The plane: one class, one kind of pixels.
const highlight = document.getElementById("highlight");
highlight.addEventListener("input", () => {
  for (const part of all(".plane [data-class]")) part.classList.toggle("dim", highlight.value !== "" && part.dataset.class !== highlight.value);
});
for (const box of all(".of-kind")) {
  box.addEventListener("input", () => { for (const dots of all(".dots." + box.value)) dots.classList.toggle("off", !box.checked); });
}
