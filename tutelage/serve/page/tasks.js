"use strict";
// Models that label, mark, answer, rewrite or embed: what they are asked, and how their answers look. textContent only, as in page.js.

const COLOURS = 6; // classes mark0 … of page.css
const TASKS = {
  classify: { route: "/v1/classify", text: "Text", second: "Second text, for models of pairs", body: pairOf, show: showLabels },
  tag: { route: "/v1/tag", text: "Text", second: "", body: (text) => text, show: showEntities },
  extract: { route: "/v1/extract", text: "Question", second: "Context", body: questionOf, show: showAnswer },
  seq2seq: { route: "/v1/seq2seq", text: "Text", second: "", body: (text) => text, show: showText },
  embed: { route: "/v1/embeddings", text: "Text", second: "Second text, to compare", body: textsOf, show: showVectors },
};

function pairOf(text, second) {
  return second === "" ? text : { text, text_pair: second };
}

function questionOf(question, context) {
  return { question, context };
}

function textsOf(text, second) {
  return second === "" ? [text] : [text, second];
}

function percent(share) {
  return (100 * share).toFixed(1) + " %";
}

// A model's answer in its box; returns what the note below says.
async function taskInto(box, model, text, second, signal) {
  const task = TASKS[model.task];
  const started = performance.now();
  const answer = await fetch(task.route, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: model.id, input: task.body(text, second) }),
    signal,
  });
  if (!answer.ok) throw new Error(await problem(answer));
  const found = await answer.json();
  task.show(box.querySelector(".text"), found.data, model, second);
  return found.usage.total_tokens + " tokens, " + Math.round(performance.now() - started) + " ms";
}

function showText(place, data) {
  place.append(element("p", "text", data[0].text));
  if (data[0].finish_reason === "length") place.append(element("p", "note", "cut at the most tokens that the model writes"));
}

function showLabels(place, data, model) {
  const [item] = data;
  const names = Object.keys(item.scores).sort((a, b) => item.scores[b] - item.scores[a]);
  if (names.length === 0) {
    place.append(element("strong", "", "Score " + item.score.toPrecision(4)));
    return;
  }
  place.append(element("strong", "", item.labels.length > 0 ? item.labels.join(", ") : "No label holds"));
  const list = element("ul", "bars");
  for (const name of names) {
    const line = element("li", item.labels.includes(name) ? "holds" : "");
    const track = element("span", "track");
    const bar = element("span", "bar");
    bar.style.width = percent(item.scores[name]).replace(" ", "");
    track.setAttribute("aria-hidden", "true");
    track.append(bar);
    line.append(element("span", "label", name), track, element("span", "share", percent(item.scores[name])));
    list.append(line);
  }
  place.append(list);
}

// Text with some of its parts marked; places count characters, which JavaScript's own strings do not.
function marked(place, text, parts) {
  const characters = Array.from(text);
  let from = 0;
  for (const part of parts) {
    place.append(characters.slice(from, part.start).join(""));
    const mark = element("mark", part.look, characters.slice(part.start, part.end).join(""));
    if (part.label !== "") mark.append(element("span", "tag", part.label));
    mark.title = part.title;
    place.append(mark);
    from = part.end;
  }
  place.append(characters.slice(from).join(""));
}

function showEntities(place, data, model) {
  const [item] = data;
  const parts = item.entities.map((entity) => ({
    start: entity.start, end: entity.end, label: entity.label, title: entity.label + ", " + percent(entity.score),
    look: "mark" + (Math.max(0, model.labels.indexOf(entity.label)) % COLOURS),
  }));
  const text = element("p", "marked");
  marked(text, item.text, parts);
  place.append(text);
  const list = element("ul", "found");
  for (const entity of item.entities) {
    list.append(element("li", "", entity.text + ": " + entity.label + ", " + percent(entity.score)));
  }
  place.append(item.entities.length > 0 ? list : element("p", "", "No entities."));
}

function showAnswer(place, data, model, context) {
  const [item] = data;
  place.append(element("strong", "", item.answer === null ? "The context does not answer this." : item.answer));
  place.append(element("span", "share", " " + percent(item.score)));
  const text = element("p", "marked");
  const parts = item.answer === null ? [] : [{ start: item.start, end: item.end, label: "", title: "the answer", look: "mark0" }];
  marked(text, context, parts);
  place.append(text);
}

function showVectors(place, data) {
  const vectors = data.map((item) => item.embedding);
  if (vectors.length === 2) {
    const [a, b] = vectors;
    const size = (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));
    const cosine = a.reduce((sum, x, i) => sum + x * b[i], 0) / (size(a) * size(b));
    place.append(element("strong", "", "Cosine similarity " + cosine.toFixed(4)));
  }
  for (const vector of vectors) {
    const first = vector.slice(0, 8).map((x) => x.toFixed(4)).join(", ");
    place.append(element("p", "vector", vector.length + " numbers: " + first + ", …"));
  }
}
