// What moves on the console's pages: numbered lines, and pages that keep themselves current.
// Without it every page works; it is then as old as when it was loaded.
"use strict";
(() => {
  // What was written before a sign-in at another site is kept in this tab until one is back.
  const KEPT = "keepgate-kept";
  const onward = document.querySelector("form[data-go]");
  if (onward) {
    const { kept: to, csrf } = onward.dataset;
    if (to) {
      try {
        const kept = JSON.parse(sessionStorage.getItem(KEPT));
        sessionStorage.removeItem(KEPT);
        if (kept && kept.to === to && csrf) {
          onward.method = "post";
          onward.action = to;
          onward.replaceChildren();
          for (const [name, value] of [["csrf", csrf], ["do", "show"], ...kept.fields]) {
            const field = document.createElement("input");
            field.type = "hidden";
            field.name = name;
            field.value = value;
            onward.append(field);
          }
        }
      } catch {
        // A browser that keeps nothing.
      }
    }
    onward.submit();
    return;
  }
  const away = document.querySelector("a[data-keep]");
  if (away) {
    away.addEventListener("click", () => {
      const fields = [...document.querySelectorAll("input[name^='kept.']")];
      const kept = fields.map((field) => [field.name.slice(5), field.value]);
      try {
        if (kept.length) sessionStorage.setItem(KEPT, JSON.stringify({ to: away.dataset.keep, fields: kept }));
        else sessionStorage.removeItem(KEPT);
      } catch {
        // A browser that keeps nothing.
      }
    });
  }

  // The editor grows with its text, and numbers its lines.
  const area = document.querySelector(".ed textarea");
  if (area) {
    const numbers = area.parentElement.querySelector("ol");
    area.addEventListener("input", () => {
      const lines = Math.max(area.value.split("\n").length + 1, 13);
      area.rows = lines;
      while (numbers.children.length > lines) numbers.lastElementChild.remove();
      while (numbers.children.length < lines) {
        const number = document.createElement("span");
        number.textContent = String(numbers.children.length + 1);
        const line = document.createElement("li");
        line.append(number);
        numbers.append(line);
      }
    });
  }

  // Fields are completed while one types; the center answers with a few texts.
  const QUIET_MS = 150;
  for (const form of document.querySelectorAll("form[data-complete]")) {
    for (const field of form.querySelectorAll("input[list]")) {
      let waiting = 0;
      let asked = null;
      field.addEventListener("input", () => {
        clearTimeout(waiting);
        waiting = setTimeout(async () => {
          if (asked) asked.abort();
          asked = new AbortController();
          const question = `&field=${encodeURIComponent(field.name)}&q=${encodeURIComponent(field.value)}`;
          try {
            const answer = await fetch(form.dataset.complete + question, {
              headers: { "x-keepgate-live": "1" },
              signal: asked.signal,
            });
            if (!answer.ok || !field.list) return;
            const options = (await answer.json()).map((text) => {
              const option = document.createElement("option");
              option.value = text;
              return option;
            });
            field.list.replaceChildren(...options);
          } catch {
            // What is not completed is typed.
          }
        }, QUIET_MS);
      });
    }
  }

  const head = document.getElementById("live");
  if (!head || !window.EventSource) return;
  const word = document.getElementById("live-word");
  const revision = document.getElementById("live-revision");
  // A center speaks every 5 seconds; beyond this it is not heard.
  const SILENT_MS = 12000;
  const AGAIN_MS = 5000;
  let source = null;
  let heard = Date.now();
  let shown = Date.now();
  let lostAt = null;
  let busy = false;
  let again = false;

  const say = (text) => {
    if (word.textContent !== text) word.textContent = text;
  };
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
  const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

  function look() {
    const now = Date.now();
    if (source && now - heard <= SILENT_MS) {
      lostAt = null;
      head.classList.remove("lost");
      say(head.dataset.liveWord);
      return;
    }
    lostAt ??= heard;
    head.classList.add("lost");
    const age = String(Math.round((now - shown) / 1000));
    say(fill(head.dataset.lost, { at: clock(lostAt), age }));
  }

  function ended() {
    close();
    clearInterval(looking);
    head.classList.add("lost");
    say(head.dataset.ended);
  }

  // Takes the parts of the page that are shown from the page as it is now.
  async function refresh() {
    if (busy) {
      again = true;
      return;
    }
    if (!document.querySelector("[data-live]")) {
      shown = Date.now();
      return;
    }
    busy = true;
    try {
      const began = Date.now();
      const answer = await fetch(location.href, { headers: { "x-keepgate-live": "1" } });
      if (answer.status === 401) return ended();
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const next = page.getElementById(old.id);
        const inUse = old.contains(document.activeElement) || old.querySelector("details[open]");
        if (!next || inUse || next.outerHTML === old.outerHTML) continue;
        old.replaceWith(document.adoptNode(next));
      }
      shown = began;
    } catch {
      // It is not heard: the head says so, and how old the page is.
    } finally {
      busy = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  }

  function open() {
    if (source) return;
    source = new EventSource(head.dataset.url);
    source.addEventListener("tick", (event) => {
      heard = Date.now();
      const n = Number(event.data).toLocaleString("en-US");
      revision.textContent = fill(revision.dataset.text, { n });
      look();
      refresh();
    });
    source.addEventListener("error", () => {
      heard = Math.min(heard, Date.now() - SILENT_MS - 1);
      look();
      // Refused, and not only interrupted: the browser does not try again by itself.
      if (source && source.readyState === EventSource.CLOSED) {
        close();
        fetch(location.pathname, { headers: { "x-keepgate-live": "1" } }).then(
          (answer) => (answer.status === 401 ? ended() : setTimeout(open, AGAIN_MS)),
          () => setTimeout(open, AGAIN_MS),
        );
      }
    });
  }

  function close() {
    if (source) source.close();
    source = null;
  }

  const looking = setInterval(look, 1000);
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
})();
