"use strict";
// Without this script the page shows everything. With it: a model's card opens over the page, and what a point
// of a figure stands for is shown, in all figures at once, to a mouse, to a finger and to the keyboard.
(() => {
  const NEAR = 22; // pixels from which a point is meant
  document.documentElement.classList.add("js");
  const cards = [...document.querySelectorAll("article.model")];
  const order = cards.map((card) => card.id);

  // ---- the card of a model ----------------------------------------------------------------------

  const dialog = document.getElementById("dialog");
  const frame = document.getElementById("frame");
  const home = document.getElementById("cards");
  let shown = -1; // index of the card in the dialog

  const putBack = () => {
    if (shown >= 0) home.insertBefore(frame.firstElementChild, home.children[shown] ?? null);
    shown = -1;
  };
  const open = (index) => {
    putBack();
    shown = index;
    frame.append(cards[index]);
    frame.scrollTop = 0;
    document.getElementById("previous").disabled = index === 0;
    document.getElementById("next").disabled = index === cards.length - 1;
    dialog.setAttribute("aria-labelledby", cards[index].querySelector("h3").id);
    if (!dialog.open) dialog.showModal();
    history.replaceState(null, "", "#" + encodeURIComponent(order[index]));
  };
  const openHash = () => {
    let name = location.hash.slice(1);
    try { name = decodeURIComponent(name); } catch { /* it is no id then */ }
    if (order.includes(name)) open(order.indexOf(name));
  };
  dialog.addEventListener("close", () => { // which is told a little later
    if (dialog.open) return; // and by then another card may be in it
    putBack();
    history.replaceState(null, "", "#front");
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && cards[shown + step]) open(shown + step);
  });
  document.getElementById("close").addEventListener("click", () => dialog.close());
  document.getElementById("previous").addEventListener("click", () => open(shown - 1));
  document.getElementById("next").addEventListener("click", () => open(shown + 1));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#model-']");
    if (!link) return;
    event.preventDefault();
    open(order.indexOf(decodeURIComponent(link.getAttribute("href").slice(1))));
  });
  window.addEventListener("hashchange", openHash);

  // ---- what a point stands for ------------------------------------------------------------------

  const tip = document.getElementById("tip");
  const tips = new Map(); // by id of the architecture
  const figures = new Map(); // by svg: its marks, and where they are as shares of its size
  for (const mark of document.querySelectorAll(".mark")) {
    const title = mark.querySelector("title");
    if (title) {
      tips.set(mark.dataset.id, title.textContent);
      mark.setAttribute("aria-label", title.textContent);
      title.remove(); // the browser's own tooltip would be a second one
    }
    const svg = mark.closest("svg");
    if (!figures.has(svg)) figures.set(svg, { marks: [], rings: ring() });
    figures.get(svg).marks.push({ mark, id: mark.dataset.id });
  }

  function ring() {
    const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
    group.setAttribute("class", "rings");
    group.setAttribute("aria-hidden", "true");
    return group;
  }
  function places(svg) {
    const figure = figures.get(svg);
    if (figure.measured) return figure.marks;
    const box = svg.getBoundingClientRect();
    for (const place of figure.marks) {
      const at = place.mark.getBoundingClientRect();
      place.x = (at.left + at.width / 2 - box.left) / box.width;
      place.y = (at.top + at.height / 2 - box.top) / box.height;
    }
    figure.measured = box.width > 0;
    return figure.marks;
  }
  let current = null;
  function show(svg, place) {
    current = { svg, place };
    for (const [other, figure] of figures) {
      const box = other.viewBox.baseVal;
      figure.rings.replaceChildren(...places(other).filter((p) => p.id === place.id).map((p) => {
        const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
        for (const [name, value] of [["cx", p.x * box.width], ["cy", p.y * box.height], ["r", 6]]) {
          circle.setAttribute(name, value);
        }
        return circle;
      }));
      if (!figure.rings.isConnected) other.append(figure.rings);
    }
    const [first, ...rest] = (tips.get(place.id) ?? place.id).split("\n");
    tip.replaceChildren(Object.assign(document.createElement("strong"), { textContent: first }), rest.join("\n"));
    tip.hidden = false;
    const box = svg.getBoundingClientRect();
    const x = box.left + place.x * box.width, y = box.top + place.y * box.height;
    const left = Math.min(Math.max(8, x - tip.offsetWidth / 2), document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = y - tip.offsetHeight - 14;
    tip.style.left = left + "px";
    tip.style.top = (above > 8 ? above : y + 16) + "px";
  }
  function hide() {
    current = null;
    tip.hidden = true;
    for (const figure of figures.values()) figure.rings.replaceChildren();
  }
  function nearest(svg, event) {
    const box = svg.getBoundingClientRect();
    const far = (p) => Math.hypot(box.left + p.x * box.width - event.clientX, box.top + p.y * box.height - event.clientY);
    let best = null, least = NEAR;
    for (const place of places(svg)) { // of two as near, the one that is drawn above
      const distance = far(place) - (place.mark.localName === "a" ? 4 : 0);
      if (distance <= least) [best, least] = [place, distance];
    }
    return best;
  }
  for (const [svg, figure] of figures) {
    svg.addEventListener("pointermove", (event) => {
      const place = nearest(svg, event);
      svg.style.cursor = place && order.includes("model-" + place.id) ? "pointer" : "";
      place ? show(svg, place) : hide();
    });
    svg.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") hide();
    });
    svg.addEventListener("click", (event) => {
      const place = nearest(svg, event);
      if (!place) return hide();
      event.preventDefault();
      event.stopPropagation();
      const index = order.indexOf("model-" + place.id);
      if (index < 0) return show(svg, place);
      hide();
      open(index);
    });
    // One stop of the tab key a figure; the arrows go from model to model.
    const links = figure.marks.filter((place) => place.mark.localName === "a");
    links.forEach((place, i) => {
      place.mark.setAttribute("tabindex", i ? "-1" : "0");
      place.mark.addEventListener("focus", () => {
        places(svg);
        show(svg, place);
      });
      place.mark.addEventListener("blur", hide);
      place.mark.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: links.length - 1 }[event.key];
        if (event.key === "Escape") hide();
        if (event.key === "Enter") {
          event.preventDefault();
          open(order.indexOf("model-" + place.id));
        }
        if (!links[to]) return;
        event.preventDefault();
        place.mark.setAttribute("tabindex", "-1");
        links[to].mark.setAttribute("tabindex", "0");
        links[to].mark.focus();
      });
    });
  }
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("svg")) hide();
  });
  window.addEventListener("scroll", () => { // the tip stays with what has the focus
    if (current && document.activeElement === current.place.mark) show(current.svg, current.place);
    else if (current) hide();
  }, { passive: true });
  openHash();
})();
