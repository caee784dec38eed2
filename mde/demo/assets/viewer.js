// Image and depth side by side, and the depth under the pointer, read from the very array that can
// be downloaded. element, props, watch: of Gradio's HTML component.
const find = (what) => element.querySelector(what);
let shown = null; // height, width, depth (Float32Array), unit
let last = null; // where the pointer is, while it is on the picture

function parseNpy(buffer) {
  const start = 10 + new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder().decode(buffer.slice(10, start));
  const [height, width] = header.match(/\((\d+), (\d+)\)/).slice(1).map(Number);
  return { height, width, depth: new Float32Array(buffer, start) };
}

async function show() {
  const value = props.value;
  shown = null;
  delete element.dataset.shows;
  if (!value) return;
  find(".stage").style.setProperty("--aspect", value.width / value.height);
  find(".photo").src = value.image.url;
  find(".depth").src = value.colors.url;
  find(".low").textContent = value.low;
  find(".high").textContent = value.high;
  const reply = await fetch(value.array.url);
  const array = reply.ok && parseNpy(await reply.arrayBuffer());
  // Meanwhile another picture may have come.
  if (!array || props.value !== value) return;
  shown = { ...array, unit: value.unit };
  element.dataset.shows = value.array.path;
  // Another model, under a pointer that rests.
  if (last) point(last);
}

function words(depth) {
  const number = depth.toFixed(depth < 10 ? 2 : 1);
  return shown.unit === "m" ? `${number} m` : `${number}, ${shown.unit}`;
}

function point(event) {
  last = event;
  const output = find("output");
  const box = find(".stage").getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const inside = shown && x >= 0 && y >= 0 && x < box.width && y < box.height;
  output.style.display = inside ? "block" : "none";
  if (!inside) return;
  const u = Math.floor((x / box.width) * shown.width);
  const v = Math.floor((y / box.height) * shown.height);
  Object.assign(output.dataset, { u, v });
  output.textContent = words(shown.depth[v * shown.width + u]);
  // Beside the pointer, and within the picture.
  output.style.left = `${Math.max(0, x + 14 + output.offsetWidth > box.width ? x - 14 - output.offsetWidth : x + 14)}px`;
  output.style.top = `${Math.max(0, y - 36)}px`;
}

function cut(event) {
  const box = find(".stage").getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  find("input").value = 100 * share;
  move();
}

const move = () => find(".stage").style.setProperty("--cut", `${find("input").value}%`);
const onStage = (event) => event.target.closest(".stage");

element.addEventListener("pointerdown", (event) => {
  if (!onStage(event)) return;
  onStage(event).setPointerCapture(event.pointerId);
  cut(event);
  point(event);
});
element.addEventListener("pointermove", (event) => {
  if (onStage(event)?.hasPointerCapture(event.pointerId)) cut(event);
  if (onStage(event)) point(event);
});
element.addEventListener("pointerout", (event) => {
  if (onStage(event)?.contains(event.relatedTarget)) return;
  last = null;
  find("output").style.display = "none";
});
element.addEventListener("input", move);
watch("value", show);
show();
