// The routing map of an answer: cells over the image, words, and the links between them.

const percent = (share) => `${share * 100}%`;

/** Collect tokens by position, each with its partners: those it was enriched from, and those it enriched. */
function tokensOf(map) {
  const tokens = new Map();
  const token = (one) => {
    if (!tokens.has(one.position)) tokens.set(one.position, { ...one, sources: [], enriched: [] });
    return tokens.get(one.position);
  };
  for (const one of map.text_scores) token(one);
  for (const one of map.routed) {
    const own = Object.assign(token(one), { gate: one.gate, score: one.score });
    for (const source of one.sources) {
      const from = token(source);
      own.sources.push(from);
      from.enriched.push(own);
    }
  }
  return [...tokens.values()];
}

function wordOf(word) {
  if (!word) return "a token";
  if (word.trim()) return `“${word}”`;
  return word.includes("\n") ? "a line break" : "a space";
}

function nameOf(token) {
  if (!token.cell) return wordOf(token.word);
  const view = token.cell.view === "whole" ? "" : ` of tile ${token.cell.tile_row + 1}.${token.cell.tile_column + 1}`;
  return `cell ${token.cell.row + 1}.${token.cell.column + 1}${view}`;
}

function list(tokens) {
  const names = [...new Set(tokens.map(nameOf))];
  return names.length > 8 ? `${names.slice(0, 8).join(", ")} and ${names.length - 8} more` : names.join(", ");
}

function describe(token) {
  const parts = [nameOf(token)];
  if (token.score !== undefined) parts.push(`information density ${token.score.toFixed(2)}`);
  if (token.gate !== undefined) parts.push(`enriched with gate ${token.gate.toFixed(2)}${token.sources.length ? ` from ${list(token.sources)}` : ""}`);
  if (token.enriched.length) parts.push(`enriched ${list(token.enriched)}`);
  return parts.join("; ");
}

function shade(token, most) {
  if (token.gate !== undefined) return `rgba(var(--mark), ${(0.15 + token.gate * 0.5).toFixed(2)})`;
  if (token.enriched.length) return `rgba(var(--from), ${(0.1 + (0.4 * token.enriched.length) / most).toFixed(2)})`;
  return "transparent";
}

/** Make one tab stop of many buttons: arrow keys go to the nearest one in their direction. */
function roving(layer, buttons) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const middle = (button) => {
    const box = button.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  buttons.forEach((button, at) => { button.tabIndex = at ? -1 : 0; });
  layer.onkeydown = (event) => {
    const step = steps[event.key];
    if (!step || !buttons.includes(event.target)) return;
    event.preventDefault();
    const [x, y] = middle(event.target);
    let next = null;
    let least = Infinity;
    for (const button of buttons) {
      const [left, top] = middle(button);
      const along = (left - x) * step[0] + (top - y) * step[1];
      const aside = Math.abs((left - x) * step[1]) + Math.abs((top - y) * step[0]);
      if (along > 1 && along + 4 * aside < least) [next, least] = [button, along + 4 * aside];
    }
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
}

/** Draw a map into the card of an answer; cells only of the first image, which is the one that the card shows. */
export function showMap(article, map) {
  const tokens = tokensOf(map);
  const most = Math.max(1, ...tokens.map((token) => token.enriched.length));
  const source = article.querySelector(".source");
  const buttons = new Map();
  for (const token of tokens) {
    if (token.cell && token.cell.image !== 0) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.style.background = shade(token, most);
    const text = describe(token);
    button.setAttribute("aria-label", text);
    const tell = (on) => {
      source.textContent = on ? text : "";
      for (const other of [...token.sources, ...token.enriched]) buttons.get(other)?.classList.toggle("named", on);
    };
    button.onfocus = button.onmouseenter = () => tell(true);
    button.onblur = button.onmouseleave = () => tell(false);
    buttons.set(token, button);
  }
  const words = [...buttons].filter(([token]) => !token.cell).sort(([one], [other]) => one.position - other.position);
  for (const [token, button] of words) button.textContent = token.word;
  const cells = [...buttons].filter(([token]) => token.cell).sort(([one], [other]) => one.position - other.position);
  for (const [token, button] of cells) {
    const [left, top, right, bottom] = token.cell.box;
    Object.assign(button.style, { left: percent(left), top: percent(top), width: percent(right - left), height: percent(bottom - top) });
  }
  for (const [place, found] of [[".words", words], [".cells", cells]]) {
    const layer = article.querySelector(place);
    if (!layer) continue;
    const made = found.map(([, button]) => button);
    layer.replaceChildren(...made);
    roving(layer, made);
  }
  article.querySelector(".legend").hidden = false;
}
