"use strict";
// Text of models and tasks enters the page only as `textContent`: it is never parsed as HTML, style or script.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const CHUNK = 12; // groups that are drawn at a time, as the reader comes near the end

// ---- what was packed by agents/view/packing.py

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const HALF = new Float32Array(65536); // the values of the 16-bit floats
for (let h = 0; h < 65536; h++) {
  const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
  HALF[h] = exponent === 31 ? (fraction ? NaN : sign * Infinity)
    : exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
}
const of16 = (text) => new Uint16Array(bytes(text).buffer);
const tokens = data.tokens && new Uint32Array(bytes(data.tokens).buffer);
const flags = data.tokens && bytes(data.flags);
const INJECTED = 1, ABOVE = 2, BELOW = 4, SPECIAL = 8;
const quantities = Object.fromEntries(Object.entries(data.quantities).map(([name, text]) => [name, of16(text)]));
const number = (name, at) => (quantities[name] ? HALF[quantities[name][at]] : NaN);
const rows = data.iteration.map((_, k) => k);
const start = (k) => data.start[k], end = (k) => data.start[k + 1];
const length = (k) => (tokens ? end(k) - start(k) : data.completion[k].length);

const groups = [];
for (const k of rows) {
  const last = groups[groups.length - 1];
  if (last && data.iteration[last[0]] === data.iteration[k] && data.problem[last[0]] === data.problem[k]) last.push(k);
  else groups.push([k]);
}

// ---- numbers as people read them

const short = (x) => (Number.isNaN(x) ? "–" : Number.isInteger(x) ? String(x) : Math.abs(x) >= 1000 || Math.abs(x) < 1e-3
  ? x.toExponential(1) : String(+x.toPrecision(3))).replace("-", "−");
const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
const rewards = (group) => group.filter((k) => data.valid[k]).map((k) => data.reward[k]);
function spread(list) {
  if (!list.length || Math.min(...list) === Math.max(...list)) return 0;
  const middle = mean(list);
  return Math.sqrt(mean(list.map((x) => (x - middle) ** 2)));
}
function quantile(name, share) { // of the sizes, over a sample of the tokens
  const sizes = [];
  const step = Math.max(1, Math.floor(tokens.length / 50000));
  for (let at = 0; at < tokens.length; at += step) {
    const x = Math.abs(number(name, at));
    if (Number.isFinite(x)) sizes.push(x);
  }
  sizes.sort((a, b) => a - b);
  return sizes.length ? sizes[Math.floor(share * (sizes.length - 1))] : 0;
}

// ---- colours: a quantity's size becomes the opacity of one of three inks

const HEATS = [
  { name: "none", label: "none" },
  { name: "logprob", label: "log-probability", least: 0.1, inks: ["down", "down"], ticks: (m) => ["0", `${short(-m)} nats`] },
  { name: "entropy", label: "entropy", least: 0.1, inks: ["much", "much"], ticks: (m) => ["0", `${short(m)} nats`] },
  { name: "advantage", label: "advantage", least: 0.01, inks: ["down", "up"], ticks: (m) => [short(-m), "0", `+${short(m)}`] },
  { name: "log_ratio", label: "ratio to the old policy", least: 0.005, inks: ["down", "up"],
    ticks: (m) => [short(Math.exp(-m)), "1", short(Math.exp(m))] },
  { name: "clip", label: "clip" },
  { name: "log_ratio_now", label: "ratio of the later policy", least: 0.005, inks: ["down", "up"],
    ticks: (m) => [short(Math.exp(-m)), "1", short(Math.exp(m))] },
].map((heat) => ({ ...heat, there: heat.name === "none" || (tokens && (heat.name === "clip" ? data.clips : heat.name in quantities)) }));
for (const heat of HEATS) if (heat.least && heat.there) heat.most = Math.max(heat.least, quantile(heat.name, 0.98));
let heat = HEATS[0];

function ink(at) {
  if (heat.name === "clip") return flags[at] & ABOVE ? "rgb(var(--up) / .6)" : flags[at] & BELOW ? "rgb(var(--down) / .6)" : "";
  if (!heat.most) return "";
  const x = number(heat.name, at);
  if (Number.isNaN(x) || x === 0) return "";
  return `rgb(var(--${heat.inks[x > 0 ? 1 : 0]}) / ${(0.72 * Math.min(1, Math.abs(x) / heat.most)).toFixed(3)})`;
}

function drawLegend() {
  const box = $("legend");
  box.replaceChildren();
  if (heat.name === "clip") {
    for (const [name, text] of [["up", "clipped above"], ["down", "clipped below"]]) {
      const swatch = make("span", "swatch", text);
      swatch.style.background = `rgb(var(--${name}) / .6)`;
      box.append(swatch);
    }
  } else if (heat.most) {
    const scale = box.appendChild(make("div", "scale"));
    const stops = heat.ticks(1).length === 3
      ? `rgb(var(--${heat.inks[0]}) / .72), transparent, rgb(var(--${heat.inks[1]}) / .72)`
      : `transparent, rgb(var(--${heat.inks[0]}) / .72)`;
    scale.style.background = `linear-gradient(90deg, ${stops})`;
    const ticks = box.appendChild(make("div", "ticks"));
    for (const text of heat.ticks(heat.most)) ticks.append(make("span", "", text));
  }
  if (heat.name !== "none") box.append(make("p", "quiet", data.meaning[heat.name]));
  for (const { name, label } of HEATS) if (name in data.absent) box.append(make("p", "quiet", `No ${label}: ${data.absent[name]}`));
  if (data.injected) {
    const line = box.appendChild(make("p", "quiet text"));
    line.append(make("i", "injected", "injected"), " by the environment, not the policy’s");
  }
}

// ---- drawing

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

function visible(text) { // line ends get a mark; other control characters become their pictures
  const box = document.createDocumentFragment();
  for (const piece of text.split(/(\n|\t|[\u0000-\u0008\u000b-\u001f\u007f])/)) {
    if (!piece) continue;
    if (piece === "\n") box.append(make("span", "mark", "↵"), "\n");
    else if (piece === "\t") box.append(make("span", "mark", "⇥"), "\t");
    else if (/^[\u0000-\u001f]$/.test(piece)) box.append(make("span", "mark", String.fromCodePoint(0x2400 + piece.charCodeAt(0))));
    else if (piece === "\u007f") box.append(make("span", "mark", "␡"));
    else box.append(piece);
  }
  return box;
}

function drawText(k) {
  const box = make("div", "text");
  if (!tokens) box.append(data.completion[k] ? visible(data.completion[k]) : make("span", "nothing", "(nothing)"));
  for (let at = tokens ? start(k) : 0; tokens && at < end(k); at++) {
    const token = make("i", (flags[at] & INJECTED ? "injected " : "") + (flags[at] & SPECIAL ? "special" : ""));
    const piece = data.pieces[tokens[at]];
    token.append(piece === "" ? make("span", "mark", "·") : visible(piece));
    token.dataset.at = at;
    token.style.background = ink(at);
    box.append(token);
  }
  return box;
}

function partsOf(k) {
  return data.parts.map((name, i) => [name, data.part_values[i][k]]).filter(([, value]) => value !== null);
}

function drawRow(k, matches) {
  const row = make("div", matches ? "row" : "row off");
  row.dataset.k = k;
  const side = row.appendChild(make("div"));
  side.append(data.valid[k] ? make("div", "score", short(data.reward[k])) : make("div", "score invalid", "not graded"));
  side.append(make("div", "side", data.finishes[data.finish[k]] + (tokens ? ` · ${length(k)} tokens` : "")));
  const body = row.appendChild(make("div"));
  body.append(drawText(k));
  const parts = partsOf(k);
  if (parts.length > 1) body.append(make("div", "parts", parts.map(([name, value]) => `${name} ${short(value)}`).join(" · ")));
  if (opened.has(k)) body.append(drawDetails(k));
  return row;
}

function drawDetails(k) {
  const box = make("div", "details");
  const said = data.strings[data.reason[k]];
  for (const [name, value] of partsOf(k)) {
    const i = data.parts.indexOf(name);
    box.append(make("span", "quiet", name), make("span", "number", short(value)), make("span", "", data.strings[data.part_reasons[i][k]]));
  }
  if (said) box.append(make("span", "quiet", "reason"), make("span"), make("span", "", said));
  box.append(make("span", "quiet", "episode"), make("span", "number", String(data.episode[k])), make("span"));
  box.append(make("pre", "", data.completion[k] || "(nothing)"));
  return box;
}

function drawGroup({ group, matching }) {
  const box = make("section", "group"), [first] = group, values = rewards(group);
  const head = box.appendChild(make("div", "head"));
  head.append(make("b", "", `iteration ${data.iteration[first]}`), make("span", "", `problem ${data.problem[first]}`));
  if (values.length > 1) {
    const told = spread(values) ? `reward ${short(mean(values))} ± ${short(spread(values))}` : `all worth ${short(values[0])}`;
    head.append(make("span", "dots", told));
  }
  const whole = data.strings[data.prompt[first]], text = data.strings[data.question[first]] || whole;
  const prompt = box.appendChild(make("div", "prompt"));
  prompt.append(visible(text));
  if (text.split("\n").length < 4 && text.length < 300) prompt.classList.add("short");
  if (text !== whole) prompt.title = "click for the whole prompt";
  prompt.addEventListener("click", () => {
    prompt.replaceChildren(visible(prompt.classList.toggle("open") ? whole : text));
  });
  for (const k of group) box.append(drawRow(k, matching.has(k)));
  return box;
}

// ---- what is shown: filters and order, kept in the address so that a reload or a link shows the same

const FIELDS = ["search", "iterationFrom", "iterationTo", "problem", "rewardFrom", "rewardTo", "finish", "sort", "heat"];
const opened = new Set();
let shown = [], drawn = 0, here = null, cursor = null;

function matcher(text) {
  const pattern = text.match(/^\/(.+)\/$/s);
  if (pattern) {
    try {
      const regex = new RegExp(pattern[1], "iu");
      return (k) => regex.test(haystack(k));
    } catch { /* not finished yet: as plain text */ }
  }
  const wanted = text.toLowerCase();
  return (k) => haystack(k).toLowerCase().includes(wanted);
}
const haystack = (k) => `${data.strings[data.prompt[k]]}\n${data.completion[k]}\n${data.strings[data.reason[k]]}`;
const bound = (id, otherwise) => { const x = $(id).value.trim(); return x === "" || Number.isNaN(+x) ? otherwise : +x; };

function filtered() {
  const text = $("search").value, hit = text ? matcher(text) : () => true, finish = $("finish").value;
  const [from, to] = [bound("iterationFrom", -Infinity), bound("iterationTo", Infinity)];
  const [low, high] = [bound("rewardFrom", -Infinity), bound("rewardTo", Infinity)], problem = bound("problem", null);
  const ok = (k) => data.iteration[k] >= from && data.iteration[k] <= to && (problem === null || data.problem[k] === problem)
    && data.reward[k] >= low && data.reward[k] <= high && (finish === "" || data.finish[k] === +finish) && hit(k);
  return groups.map((group) => ({ group, matching: new Set(group.filter(ok)) })).filter(({ matching }) => matching.size);
}

function lowest(k) {
  let least = 0;
  for (let at = start(k); at < end(k); at++) least = Math.min(least, number("logprob", at) || 0);
  return least;
}
const KEYS = {
  first: (g) => data.iteration[g[0]], last: (g) => -data.iteration[g[0]],
  best: (g) => -mean(rewards(g).concat(rewards(g).length ? [] : [-1e9])), worst: (g) => mean(rewards(g).concat(rewards(g).length ? [] : [1e9])),
  spread: (g) => -spread(rewards(g)), long: (g) => -Math.max(...g.map(length)), unlikely: (g) => Math.min(...g.map(lowest)),
};

function show() {
  heat = HEATS.find(({ name }) => name === $("heat").value) || HEATS[0];
  const key = KEYS[$("sort").value];
  shown = filtered().map((entry) => [key(entry.group), entry]).sort((a, b) => a[0] - b[0]).map(([, entry]) => entry);
  const matching = shown.reduce((total, entry) => total + entry.matching.size, 0);
  $("count").textContent = `${matching.toLocaleString("en")} of ${rows.length.toLocaleString("en")} completions`;
  $("clear").hidden = matching === rows.length;
  drawn = 0;
  $("groups").replaceChildren();
  if (!shown.length) $("groups").append(make("p", "empty", "No completion matches."));
  more();
  drawLegend();
  remember();
}

function more() {
  const box = document.createDocumentFragment();
  for (const entry of shown.slice(drawn, drawn + CHUNK)) box.append(drawGroup(entry));
  drawn = Math.min(shown.length, drawn + CHUNK);
  $("groups").append(box);
  if (drawn < shown.length) near.observe($("groups").lastElementChild);
  if (here !== null) select(here, false);
}
const near = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) if (isIntersecting) { near.unobserve(target); more(); }
}, { rootMargin: "1500px" });

function recolour() {
  heat = HEATS.find(({ name }) => name === $("heat").value) || HEATS[0];
  for (const token of document.querySelectorAll("#groups i[data-at]")) token.style.background = ink(+token.dataset.at);
  drawLegend();
  remember();
}

function remember() {
  const words = FIELDS.filter((id) => $(id).value !== $(id).dataset.usual).map((id) => `${id}=${encodeURIComponent($(id).value)}`);
  try { history.replaceState(null, "", `#${words.join("&")}`); } catch { /* some browsers forbid it for files */ }
}

function recall() {
  for (const word of location.hash.slice(1).split("&")) {
    const [id, value] = word.split("=");
    if (!FIELDS.includes(id)) continue;
    try { $(id).value = decodeURIComponent(value ?? ""); } catch { /* a damaged address */ }
  }
  for (const id of ["heat", "sort", "finish"]) {
    if ($(id).selectedIndex < 0 || $(id).selectedOptions[0].disabled) $(id).value = $(id).dataset.usual;
  }
}

// ---- a token's numbers

function describe(at) {
  const k = rows.findIndex((k) => end(k) > at), table = make("table");
  table.append(make("caption", "", JSON.stringify(data.pieces[tokens[at]]).slice(0, 60)));
  const add = (name, text) => { const line = table.insertRow(); line.append(make("td", "", name), make("td", "", text)); };
  add("position", `${at - start(k) + 1} of ${length(k)}`);
  if (flags[at] & INJECTED) { add("injected", "by the environment"); return table; }
  const logprob = number("logprob", at), ratio = Math.exp(number("log_ratio", at));
  add("log-probability", short(logprob));
  add("probability", short(Math.exp(logprob)));
  add("entropy", quantities.entropy ? short(number("entropy", at)) : "not stored");
  if (quantities.advantage) add("advantage", short(number("advantage", at)));
  if (quantities.value) add("value", short(number("value", at)));
  if (quantities.log_ratio) add("ratio", Number.isNaN(ratio) ? "not in the update" : short(ratio));
  if (quantities.log_ratio_now) add("ratio, later policy", short(Math.exp(number("log_ratio_now", at))));
  if (quantities.reference) add("log-ratio to the reference", short(logprob - number("reference", at)));
  if (flags[at] & (ABOVE | BELOW)) add("clipped", flags[at] & ABOVE ? "above" : "below");
  return table;
}

function point(token) {
  const tip = $("tip");
  tip.hidden = !token;
  if (!token) return;
  tip.replaceChildren(describe(+token.dataset.at));
  const box = token.getBoundingClientRect(), size = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - size.width - 8))}px`;
  tip.style.top = `${box.bottom + size.height + 12 < innerHeight ? box.bottom + 6 : box.top - size.height - 6}px`;
}

// ---- keys and clicks

const rowOf = (k) => document.querySelector(`.row[data-k="${k}"]`);
function select(k, move = true) {
  document.querySelector(".row.here")?.classList.remove("here");
  if (k !== here) { cursor = null; point(null); }
  here = k;
  const row = rowOf(k);
  row?.classList.add("here");
  if (move) row?.scrollIntoView({ block: "nearest" });
}

function toggle(k) {
  opened.has(k) ? opened.delete(k) : opened.add(k);
  const row = rowOf(k);
  row.replaceWith(drawRow(k, !row.classList.contains("off")));
  select(k);
}

function step(by, whole) {
  const place = shown.findIndex(({ group }) => group.includes(here));
  if (place < 0) { if (shown.length) select(shown[0].group[0]); return; }
  const inside = shown[place].group.indexOf(here) + by;
  let to;
  if (!whole && inside >= 0 && inside < shown[place].group.length) to = shown[place].group[inside];
  else {
    const next = shown[place + by];
    if (!next) return;
    if (place + by >= drawn) more();
    to = whole || by > 0 ? next.group[0] : next.group[next.group.length - 1];
  }
  select(to);
}

function walk(by) {
  if (here === null || !tokens || !rowOf(here)) return;
  document.querySelector("i.at")?.classList.remove("at");
  cursor = cursor === null ? (by > 0 ? start(here) : end(here) - 1) : Math.max(start(here), Math.min(end(here) - 1, cursor + by));
  const token = document.querySelector(`i[data-at="${cursor}"]`);
  token?.classList.add("at");
  token?.scrollIntoView({ block: "nearest" });
  point(token);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  try { localStorage.setItem("textenv-theme", name); } catch { /* private windows */ }
}
const otherTheme = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const actions = {
    j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1), n: () => step(1, true), p: () => step(-1, true),
    ArrowRight: () => walk(1), ArrowLeft: () => walk(-1), "/": () => $("search").focus(), t: otherTheme, "?": () => $("help").showModal(),
    Enter: () => here !== null && rowOf(here) && toggle(here), Escape: () => point(null),
  };
  const colour = HEATS[+event.key];
  if (event.key in actions && !(event.key === "Enter" && event.target.matches("button"))) actions[event.key]();
  else if (/^[0-6]$/.test(event.key) && colour.there) { $("heat").value = colour.name; recolour(); }
  else return;
  event.preventDefault();
});
$("groups").addEventListener("click", (event) => {
  if (String(getSelection())) return; // text is being marked
  const row = event.target.closest(".row");
  if (row && !event.target.closest(".details")) { select(+row.dataset.k, false); toggle(+row.dataset.k); }
});
$("groups").addEventListener("mouseover", (event) => point(event.target.closest("i[data-at]")));
$("groups").addEventListener("mouseleave", () => point(null));
$("filters").addEventListener("submit", (event) => event.preventDefault());
let pending;
$("filters").addEventListener("input", (event) => {
  clearTimeout(pending);
  if (event.target.id === "heat") recolour();
  else pending = setTimeout(show, event.target.matches("select") ? 0 : 150);
});
$("clear").addEventListener("click", () => {
  for (const id of FIELDS) if (id !== "heat" && id !== "sort") $(id).value = $(id).dataset.usual;
  show();
});
$("keys").addEventListener("click", () => $("help").showModal());
$("help").addEventListener("click", () => $("help").close());
$("theme").addEventListener("click", otherTheme);
addEventListener("scroll", () => cursor === null && point(null), { passive: true });

// ---- begin

let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
try { theme = localStorage.getItem("textenv-theme") || theme; } catch { /* private windows */ }
document.documentElement.dataset.theme = theme;
$("title").textContent = data.title;
$("subtitle").textContent = data.subtitle;
$("notice").textContent = data.notice;
$("notice").hidden = !data.notice;
$("finish").append(new Option("anything", ""), ...data.finishes.map((name, i) => new Option(name, i)));
for (const { name, label, there } of HEATS) {
  if (!there && !(name in data.absent)) continue;
  const option = new Option(there ? label : `${label} (not there)`, name);
  option.disabled = !there;
  $("heat").append(option);
}
for (const [id, values] of [["iteration", data.iteration], ["reward", data.reward]]) {
  $(`${id}From`).placeholder = short(values.reduce((a, b) => Math.min(a, b), Infinity));
  $(`${id}To`).placeholder = short(values.reduce((a, b) => Math.max(a, b), -Infinity));
}
if (!tokens) { $("heat").closest("label").hidden = true; $("sort").querySelector('[value="unlikely"]').remove(); }
else $("heat").value = "logprob";
for (const id of FIELDS) $(id).dataset.usual = $(id).value;
recall();
show();
