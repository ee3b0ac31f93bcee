{
  // Panels of one picture become two layers: the left one ends, and the right one begins, where the slider is.
  const make = (tag, className, parent) => {
    const element = document.createElement(tag);
    element.className = className;
    parent.append(element);
    return element;
  };
  const choice = (side, panels, chosen, parent) => {
    const label = make("label", side, parent);
    make("span", "side", label).textContent = side;
    const select = make("select", "", label);
    panels.forEach((panel, index) => select.add(new Option(panel.dataset.name, index, false, index === chosen)));
    return select;
  };
  for (const sample of document.querySelectorAll(".compare")) {
    const panels = [...sample.querySelectorAll(".panels > figure")];
    if (panels.length < 2) continue;
    const view = make("div", "view", sample);
    sample.prepend(view);
    const stage = make("div", "stage", view);
    const left = make("img", "left", stage);
    const right = make("img", "right", stage);
    make("span", "handle", stage);
    const range = make("input", "range", stage);
    Object.assign(range, {type: "range", min: 0, max: 100, step: 1, value: 50});
    const choices = make("div", "choices", view);
    const names = panels.map((panel) => panel.dataset.name);
    const place = (name, otherwise) => names.includes(name) ? names.indexOf(name) : otherwise;
    const selects = ["left", "right"].map((side, index) => choice(side, panels, place(sample.dataset[side], index), choices));
    const picture = (select) => panels[select.value].querySelector("img");
    const show = () => {
      [left, right].forEach((layer, index) => {
        layer.src = picture(selects[index]).src;
        layer.alt = picture(selects[index]).alt;
      });
      const [one, two] = selects.map((select) => names[select.value]);
      range.setAttribute("aria-label", `${sample.dataset.name}: border between ${one} and ${two}`);
      range.setAttribute("aria-valuetext", `${range.value} % ${one}`);
      stage.style.setProperty("--at", `${range.value}%`);
    };
    const drag = (event) => {
      const box = stage.getBoundingClientRect();
      range.value = Math.round(100 * (event.clientX - box.left) / box.width);
      show();
    };
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      range.focus({preventScroll: true});
      stage.setPointerCapture(event.pointerId);
      drag(event);
    });
    stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
    range.addEventListener("input", show);
    selects.forEach((select) => select.addEventListener("change", show));
    show();
    sample.classList.add("sliding");
  }
}
