"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const $ = (id) => document.getElementById(id);
  const rows = Array.from(document.querySelectorAll("li[data-verdict]"));
  const form = $("filter");
  const tallies = Array.from(document.querySelectorAll(".tally button"));
  let texts = null;

  function apply() {
    texts = texts || rows.map((row) => row.textContent.toLowerCase());
    const words = $("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const want = { area: $("f-area").value, verdict: $("f-verdict").value, basis: $("f-basis").value };
    let shown = 0;
    rows.forEach((row, i) => {
      const fits = Object.keys(want).every((key) => !want[key] || row.dataset[key] === want[key]);
      row.hidden = !(fits && words.every((word) => texts[i].includes(word)));
      shown += row.hidden ? 0 : 1;
    });
    document.querySelectorAll(".area").forEach((area) => {
      area.hidden = !area.querySelector("li[data-verdict]:not([hidden])");
    });
    tallies.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.verdict === want.verdict)));
    $("f-count").textContent = shown
      ? "Showing " + shown + " of " + rows.length + " claims"
      : "No claim fits. Clear the filter to see all " + rows.length + ".";
  }

  function reveal() {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch (error) { return; }
    const target = id && $(id);
    if (!target || !target.matches("li[data-verdict]")) return;
    if (target.hidden) { form.reset(); apply(); }
    target.querySelector("details").open = true;
    target.scrollIntoView();
  }

  if (form) {
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(apply));
    tallies.forEach((button) => button.addEventListener("click", () => {
      const chosen = $("f-verdict").value === button.dataset.verdict;
      $("f-verdict").value = chosen ? "" : button.dataset.verdict;
      apply();
    }));
    $("f-open").addEventListener("click", () => {
      const shown = rows.filter((row) => !row.hidden).map((row) => row.querySelector("details"));
      const open = !shown.every((row) => row.open);
      shown.forEach((row) => { row.open = open; });
    });
    apply();
    addEventListener("hashchange", reveal);
    reveal();
  }

  // ast: true has Vega interpret its expressions, so that the page needs no eval.
  const options = { ast: true, actions: false, renderer: "svg", tooltip: { theme: "custom" } };
  document.querySelectorAll("[data-chart]").forEach((place) => {
    const fail = (why) => {
      place.textContent = "This chart could not be drawn (" + why + "); the tables hold its numbers.";
    };
    if (typeof vegaEmbed !== "function") {
      fail("the page was made without its drawing script");
      return;
    }
    vegaEmbed(place, JSON.parse($(place.dataset.chart).textContent), options).catch((error) => {
      fail(error.message);
      console.error(error);
    });
  });
})();
