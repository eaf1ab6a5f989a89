"use strict";

const field = (id) => document.getElementById(id);
const state = { image: null, running: null };

function headers() {
  const key = field("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function problem(text) {
  field("problem").textContent = text;
}

async function loadModels() {
  const answer = await fetch("v1/models", { headers: headers() });
  field("key-field").hidden = answer.status !== 401 && !field("key").value;
  if (!answer.ok) {
    problem((await answer.json()).error.message);
    return;
  }
  problem("");
  const models = (await answer.json()).data;
  field("model").replaceChildren(...models.map((one) => new Option(one.id, one.id)));
  const show = () => {
    const one = models.find((model) => model.id === field("model").value);
    field("facts").textContent = `${one.model_type}, ${one.precision}, ${one.provider}, router ${one.router ? "in the bundle" : "absent"}`;
    field("router").disabled = field("compare").disabled = !one.router;
  };
  field("model").onchange = show;
  show();
}

function takeImage(file) {
  if (!file || !file.type.startsWith("image/")) {
    problem("That is not an image; give a PNG, JPEG, WebP, BMP or GIF file.");
    return;
  }
  problem("");
  const reader = new FileReader();
  reader.onload = () => {
    state.image = reader.result;
    field("drop").querySelector("p").textContent = file.name || "pasted image";
  };
  reader.readAsDataURL(file);
}

function body(router) {
  const content = [{ type: "text", text: field("prompt").value }];
  if (state.image) content.unshift({ type: "image_url", image_url: { url: state.image } });
  return {
    model: field("model").value,
    messages: [{ role: "user", content }],
    max_tokens: Number(field("tokens").value),
    stream: true,
    stream_options: { include_usage: true },
    router: router ? "on" : "off",
    routing_map: router,
  };
}

function card(title) {
  const article = field("answer").content.firstElementChild.cloneNode(true);
  article.querySelector("h2").textContent = title;
  const picture = article.querySelector("img");
  if (state.image) {
    picture.src = state.image;
    picture.alt = "The image of the question";
  } else {
    article.querySelector(".picture").remove();
  }
  return article;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

async function ask(article, router, signal) {
  const answer = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(),
    body: JSON.stringify(body(router)),
    signal,
  });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  for await (const event of events(answer)) {
    if (event.error) throw new Error(event.error.message);
    const delta = event.choices.length ? event.choices[0].delta : {};
    if (delta.content) article.querySelector(".text").append(delta.content);
    if (event.timings) showTimings(article, event.timings);
    if (event.routing_map) showMap(article, event.routing_map);
  }
}

function showTimings(article, timings) {
  const shown = {
    "first token": timings.ttft_ms,
    vision: timings.vision_ms,
    router: timings.router_ms,
    prompt: timings.prefill_ms,
    "each further token": timings.predicted_per_token_ms,
    "in the queue": timings.queue_ms,
  };
  const list = article.querySelector(".timings");
  for (const [name, value] of Object.entries(shown)) {
    if (value === null) continue;
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = `${value.toFixed(1)} ms`;
    list.append(term, text);
  }
}

function showMap(article, map) {
  const words = new Map();
  for (const one of map.text_scores) {
    const mark = document.createElement("mark");
    mark.textContent = one.word;
    mark.style.background = `rgba(var(--mark), ${((1 - one.score) * 0.7).toFixed(2)})`;
    mark.title = `information density ${one.score.toFixed(2)}`;
    words.set(one.position, mark);
  }
  article.querySelector(".words").replaceChildren(...words.values());
  const layer = article.querySelector(".cells");
  if (!layer) return;
  const cells = new Map();
  for (const token of map.routed) {
    if (token.side !== "image" || !token.cell || token.cell.image !== 0) continue;
    const [left, top, right, bottom] = token.cell.box;
    const cell = document.createElement("button");
    cell.type = "button";
    cell.style.left = `${left * 100}%`;
    cell.style.top = `${top * 100}%`;
    cell.style.width = `${(right - left) * 100}%`;
    cell.style.height = `${(bottom - top) * 100}%`;
    cell.style.background = `rgba(var(--mark), ${(token.gate * 0.6).toFixed(2)})`;
    const from = token.sources.map((source) => source.word).filter(Boolean).join(", ");
    const text = `Row ${token.cell.row + 1}, column ${token.cell.column + 1}: density ${token.score.toFixed(2)}, enriched by ${from || "the mean of the words"}`;
    cell.setAttribute("aria-label", text);
    const name = (on) => {
      article.querySelector(".source").textContent = on ? text : "";
      for (const source of token.sources) words.get(source.position)?.classList.toggle("named", on);
    };
    cell.onfocus = cell.onmouseenter = () => name(true);
    cell.onblur = cell.onmouseleave = () => name(false);
    cells.set(token.position, cell);
  }
  layer.replaceChildren(...cells.values());
}

async function run(choices) {
  problem("");
  if (!field("prompt").value.trim()) {
    problem("The question is empty; say what the model should answer.");
    return;
  }
  state.running = new AbortController();
  field("stop").disabled = false;
  field("send").disabled = field("compare").disabled = true;
  const cards = choices.map((router) => card(choices.length > 1 ? `Router ${router ? "on" : "off"}` : "Answer"));
  field("answers").replaceChildren(...cards);
  try {
    for (const [at, router] of choices.entries()) await ask(cards[at], router, state.running.signal);
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
  } finally {
    field("stop").disabled = true;
    field("send").disabled = false;
    field("compare").disabled = field("router").disabled;
    document.body.dataset.done = String(Number(document.body.dataset.done || 0) + 1);
  }
}

field("ask").onsubmit = (event) => {
  event.preventDefault();
  run([field("router").checked && !field("router").disabled]);
};
field("compare").onclick = () => run([true, false]);
field("stop").onclick = () => state.running?.abort();
field("key").onchange = loadModels;
field("file").onchange = () => takeImage(field("file").files[0]);
const drop = field("drop");
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => { event.preventDefault(); drop.classList.remove("over"); takeImage(event.dataTransfer.files[0]); };
document.onpaste = (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) takeImage(file);
};
loadModels().catch((error) => problem(error.message));
