"use strict";
const cards = [...document.querySelectorAll("figure")];
const grid = document.getElementById("cards");
const words = document.getElementById("words");
const order = document.getElementById("order");
const large = document.getElementById("large");
const texts = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));
const buttons = [...document.querySelectorAll("button")];
const kinds = new Set();
let verdict = "";

function show() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const card of cards) {
    card.hidden = !((!verdict || card.dataset.verdict === verdict)
      && (!kinds.size || kinds.has(card.dataset.kind))
      && wanted.every((word) => texts.get(card).includes(word)));
    count += !card.hidden;
  }
  document.getElementById("count").textContent = count;
  document.getElementById("none").hidden = count > 0;
  for (const button of buttons) {
    const { kind } = button.dataset;
    button.ariaPressed = kind === undefined ? button.dataset.verdict === verdict : kinds.has(kind);
  }
}

// The filters stand in the address, so that a view can be passed on.
function remember() {
  const state = new URLSearchParams([...kinds].map((kind) => ["kind", kind]));
  if (verdict) state.set("verdict", verdict);
  if (words.value) state.set("words", words.value);
  if (order.value) state.set("order", order.value);
  history.replaceState(null, "", `#${state}`);
  show();
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  verdict = state.get("verdict") ?? "";
  words.value = state.get("words") ?? "";
  order.value = state.get("order") ?? "";
  for (const kind of state.getAll("kind")) kinds.add(kind);
  sort();
  show();
}

function sort() {
  const [name, sign] = order.value.split(":");
  const rank = (card) => (name in card.dataset ? sign * card.dataset[name] : Infinity);
  grid.append(...(name ? cards.toSorted((one, other) => rank(one) - rank(other) || 0) : cards));
}

function enlarge(card) {
  const images = [...card.querySelectorAll("img")].map((image) => image.cloneNode());
  large.querySelector(".pair").replaceChildren(...images);
  large.querySelector("p").textContent = card.querySelector("strong").textContent;
  large.showModal();
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    const { kind } = button.dataset;
    if (kind === undefined) verdict = button.dataset.verdict;
    else if (!kinds.delete(kind)) kinds.add(kind);
    remember();
  });
}
words.addEventListener("input", remember);
order.addEventListener("change", () => {
  sort();
  remember();
});
grid.addEventListener("click", (event) => {
  const card = event.target.closest("figure");
  if (card && !String(getSelection())) enlarge(card);
});
grid.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("figure")) enlarge(event.target);
});
large.addEventListener("click", () => large.close());
recall();
