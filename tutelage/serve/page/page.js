"use strict";
// The chat page: plain DOM calls, and textContent only, so that whatever a model writes stays text.

const at = (id) => document.getElementById(id);
const histories = new Map(); // model name → its messages so far
const models = new Map(); // model name → what the server says of it
let stopping = null; // the AbortController of the running answers

function element(tag, name, text) {
  const made = document.createElement(tag);
  made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(text) {
  at("state").textContent = text;
}

async function loadModels() {
  const answer = await fetch("/v1/models");
  if (!answer.ok) throw new Error(await problem(answer));
  const served = (await answer.json()).data;
  for (const model of served) {
    models.set(model.id, model);
    at("model").append(new Option(model.id, model.id));
  }
  at("model").value = (served.find((model) => model.parent) || served[0]).id;
  chooseModel();
  at("other").value = models.get(at("model").value).parent || "";
}

// The form asks for what the chosen model reads, and offers models of the same task beside it.
function chooseModel() {
  const chosen = models.get(at("model").value);
  const task = TASKS[chosen.task];
  const before = at("other").value;
  const others = [...models.values()].filter((model) => model.task === chosen.task && model.id !== chosen.id);
  at("other").replaceChildren(new Option("nothing", ""), ...others.map((model) => new Option(model.id, model.id)));
  at("other").value = others.some((model) => model.id === before) ? before : "";
  at("question-label").textContent = task ? task.text : "Question";
  at("second-label").textContent = task ? task.second : "";
  at("second-part").hidden = !task || task.second === "";
  at("sampling").hidden = Boolean(task);
}

async function problem(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return "The server answered " + answer.status + ".";
  }
}

function settings() {
  const found = {};
  for (const key of ["temperature", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed"]) {
    if (at(key).value !== "") found[key] = Number(at(key).value);
  }
  return found;
}

function chosenModels() {
  return [...new Set([at("model").value, at("other").value].filter((name) => name !== ""))];
}

function messagesOf(model, question) {
  const before = histories.get(model) || [];
  const system = at("system").value.trim();
  const head = system === "" ? [] : [{ role: "system", content: system }];
  return [...head, ...before, { role: "user", content: question }];
}

// One answer: streams into its own box and returns what was written, whether it ended or was stopped.
async function answerInto(box, model, question, signal) {
  const text = box.querySelector(".text");
  const started = performance.now();
  let written = "";
  let tokens = 0;
  let ended = "stopped";
  try {
    const answer = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model, messages: messagesOf(model, question), stream: true, stream_options: { include_usage: true }, ...settings(),
      }),
      signal,
    });
    if (!answer.ok) throw new Error(await problem(answer));
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) tokens = event.usage.completion_tokens;
      for (const choice of event.choices) {
        written += choice.delta.content || "";
        text.textContent = written;
        if (choice.finish_reason) ended = choice.finish_reason === "length" ? "cut: the longest answer was reached" : "";
      }
      at("talk").scrollTop = at("talk").scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      box.append(element("p", "note bad", error.message));
      return null;
    }
  }
  const seconds = (performance.now() - started) / 1000;
  const speed = tokens > 0 ? tokens + " tokens, " + (tokens / seconds).toFixed(1) + " tokens/s" : "";
  box.append(element("p", "note", [speed, ended].filter((part) => part !== "").join("; ")));
  return written;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const line = held.slice(0, end);
      held = held.slice(end + 2);
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

// One answer of a model that labels, in its own box; nothing is remembered of it.
async function labelInto(box, model, question, second, signal) {
  try {
    box.append(element("p", "note", await taskInto(box, model, question, second, signal)));
  } catch (error) {
    if (error.name !== "AbortError") box.append(element("p", "note bad", error.message));
  }
}

async function ask(question, second) {
  const turn = element("div", "turn");
  turn.append(element("p", "you", question));
  if (second !== "") turn.append(element("p", "you", second));
  const answers = element("div", "answers");
  turn.append(answers);
  at("talk").append(turn);
  stopping = new AbortController();
  at("send").disabled = true;
  at("stop").disabled = false;
  say("Answering…");
  const running = chosenModels().map(async (model) => {
    const box = element("section", "answer");
    box.setAttribute("aria-label", "Answer of " + model);
    const task = TASKS[models.get(model).task];
    box.append(element("h2", "name", model), element(task ? "div" : "p", "text", ""));
    answers.append(box);
    if (task) {
      await labelInto(box, models.get(model), question, second, stopping.signal);
      at("talk").scrollTop = box.offsetTop - at("talk").offsetTop; // its beginning: it may be longer than the room
      return;
    }
    const written = await answerInto(box, model, question, stopping.signal);
    if (written !== null) {
      const before = histories.get(model) || [];
      histories.set(model, [...before, { role: "user", content: question }, { role: "assistant", content: written }]);
    }
  });
  await Promise.all(running);
  say(stopping.signal.aborted ? "Stopped." : "Ready.");
  stopping = null;
  at("send").disabled = false;
  at("stop").disabled = true;
  at("question").focus();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value;
  const second = at("second-part").hidden ? "" : at("second").value;
  if (question.trim() === "" || stopping !== null) return;
  at("question").value = "";
  ask(question, second);
});

at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && stopping !== null) stopping.abort();
});

at("model").addEventListener("change", chooseModel);

at("stop").addEventListener("click", () => stopping !== null && stopping.abort());

at("new").addEventListener("click", () => {
  if (stopping !== null) stopping.abort();
  histories.clear();
  at("talk").replaceChildren();
  say("A new conversation.");
  at("question").focus();
});

loadModels().then(() => say("Ready."), (error) => say("The models cannot be read: " + error.message));
