// The page: asks the server and shows its answers.

import { showMap } from "./map.js";

const field = (id) => document.getElementById(id);
const state = { image: null, running: null };

function headers() {
  const key = field("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function problem(text) {
  field("problem").textContent = text;
}

async function refusal(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the server answered with status ${answer.status}`;
  }
}

async function start() {
  const needed = (await (await fetch("health")).json()).api_key;
  field("key-field").hidden = !needed;
  if (needed) problem("This server asks for its API key.");
  else await loadModels();
}

async function loadModels() {
  const answer = await fetch("v1/models", { headers: headers() });
  if (!answer.ok) {
    problem(await refusal(answer));
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

function showImage(name) {
  field("image-name").textContent = name;
  field("preview").hidden = field("remove").hidden = !state.image;
  if (state.image) field("preview").src = state.image;
  else field("preview").removeAttribute("src");
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
    showImage(file.name || "pasted image");
  };
  reader.readAsDataURL(file);
}

function removeImage() {
  state.image = null;
  field("file").value = "";
  showImage("Choose an image, drop one here, or paste one.");
  field("file").focus();
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
  if (!answer.ok) throw new Error(await refusal(answer));
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

async function run(choices) {
  problem("");
  if (!field("prompt").value.trim()) {
    problem("The question is empty; say what the model should answer.");
    return;
  }
  state.running = new AbortController();
  field("stop").disabled = false;
  field("stop").focus();
  field("send").disabled = field("compare").disabled = true;
  const cards = choices.map((router) => card(choices.length > 1 ? `Router ${router ? "on" : "off"}` : "Answer"));
  for (const one of cards) one.setAttribute("aria-busy", "true");
  field("answers").replaceChildren(...cards);
  try {
    for (const [at, router] of choices.entries()) {
      await ask(cards[at], router, state.running.signal);
      cards[at].removeAttribute("aria-busy");
    }
  } catch (error) {
    if (error.name !== "AbortError") problem(error.message);
  } finally {
    for (const one of cards) one.removeAttribute("aria-busy");
    const inStop = document.activeElement === field("stop");
    field("stop").disabled = true;
    field("send").disabled = false;
    if (inStop) field("prompt").focus();
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
field("prompt").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !field("send").disabled) field("ask").requestSubmit();
};
field("remove").onclick = removeImage;
field("key").onchange = () => loadModels().catch((error) => problem(error.message));
field("file").onchange = () => takeImage(field("file").files[0]);
const drop = field("drop");
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => { event.preventDefault(); drop.classList.remove("over"); takeImage(event.dataTransfer.files[0]); };
document.onpaste = (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) takeImage(file);
};
start().catch((error) => problem(error.message));
