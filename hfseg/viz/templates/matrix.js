{
  // The matrix of all classes on a canvas: names that stay in sight, a cell that is pointed at or walked to by keys.
  const make = (tag, className, parent) => {
    const element = document.createElement(tag);
    element.className = className;
    parent.append(element);
    return element;
  };
  const MAX_CANVAS_PX = 4096;
  const sum = (numbers) => numbers.reduce((one, two) => one + two, 0);
  const percent = (part, whole) => whole ? `${(100 * part / whole).toFixed(part === whole ? 0 : 2)} %` : "none";
  const bytes = (color) => [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16));
  const letters = (color, paper, alpha) => {  // dark or white, whichever is seen better on the mixture
    const below = bytes(paper);
    const mixed = bytes(color).map((value, place) => alpha * value + (1 - alpha) * below[place]);
    return 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2] > 125 ? "#16191e" : "#ffffff";
  };
  const count = (number) => number.toLocaleString("en-US");

  const names = (className, parent, labels, colors) => labels.map((label, index) => {
    const name = make("div", "", parent);
    make("i", "swatch", name).style.background = colors[index];
    make("span", "", name).textContent = label;
    name.title = label;
    return name;
  });

  const enhance = (figure) => {
    const {names: labels, colors, counts} = JSON.parse(figure.dataset.matrix);
    const size = labels.length;
    const ofRow = counts.map(sum);
    const ofColumn = labels.map((_, column) => sum(counts.map((row) => row[column])));
    const view = make("div", "view", figure);
    const scroll = make("div", "cells", view);
    make("div", "corner", scroll).innerHTML = "<span>labelled ↓</span><span>predicted →</span>";
    const tops = names("tops", make("div", "tops", scroll), labels, colors);
    const sides = names("sides", make("div", "sides", scroll), labels, colors);
    const field = make("div", "field", scroll);
    const canvas = make("canvas", "", field);
    const mark = make("div", "mark", field);
    const tip = make("output", "tip", view);
    field.tabIndex = 0;
    field.setAttribute("role", "application");
    field.setAttribute("aria-roledescription", "confusion matrix");
    field.setAttribute("aria-label", `Confusion matrix of ${size} classes: the arrow keys move through its cells`);
    mark.hidden = tip.hidden = true;
    let cell = 0, row = 0, column = 0;

    const draw = () => {
      const smallest = size <= 16 ? 20 : size <= 40 ? 18 : 13;
      const room = view.clientWidth - sides[0].parentElement.offsetWidth - 2;
      cell = Math.max(smallest, Math.min(size <= 6 ? 76 : 46, Math.floor(room / size)));
      scroll.style.setProperty("--cell-px", `${cell}px`);
      scroll.style.setProperty("--classes", size);
      const scale = Math.min(window.devicePixelRatio || 1, MAX_CANVAS_PX / (cell * size));
      canvas.width = canvas.height = Math.round(cell * size * scale);
      const style = getComputedStyle(figure);
      const [grid, right, wrong, paper] = ["grid", "cell", "wrong", "card"].map((name) => style.getPropertyValue(`--${name}`).trim());
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      pen.font = `${cell < 28 ? 9.5 : cell < 40 ? 11 : 12.5}px ${style.getPropertyValue("--font")}`;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      counts.forEach((pixels, y) => pixels.forEach((number, x) => {
        const share = number / Math.max(1, ofRow[y]);
        pen.fillStyle = x === y ? right : wrong;
        pen.globalAlpha = Math.sqrt(share);
        pen.fillRect(x * cell, y * cell, cell, cell);
        pen.globalAlpha = 1;
        if (cell < 20 || share < 0.005) return;
        pen.fillStyle = letters(x === y ? right : wrong, paper, Math.sqrt(share));
        pen.fillText(Math.round(100 * share), (x + 0.5) * cell, (y + 0.5) * cell);
      }));
      pen.fillStyle = cell < 20 ? paper : grid;
      pen.globalAlpha = cell < 20 ? 0.5 : 1;
      for (let line = 0; line <= size; line++) {
        pen.fillRect(line * cell - 0.5, 0, 1, cell * size);
        pen.fillRect(0, line * cell - 0.5, cell * size, 1);
      }
    };

    const hide = () => {
      mark.hidden = tip.hidden = true;
      [...tops, ...sides].forEach((name) => name.classList.remove("here"));
    };
    const show = (toRow, toColumn) => {
      row = Math.max(0, Math.min(size - 1, toRow));
      column = Math.max(0, Math.min(size - 1, toColumn));
      const pixels = counts[row][column];
      tops.forEach((name, index) => name.classList.toggle("here", index === column));
      sides.forEach((name, index) => name.classList.toggle("here", index === row));
      mark.style.transform = `translate(${column * cell}px, ${row * cell}px)`;
      tip.replaceChildren();
      make("strong", "", tip).textContent = row === column ? `${labels[row]}, right` : `${labels[row]} → ${labels[column]}`;
      make("span", "", tip).textContent = `${count(pixels)} ${pixels === 1 ? "pixel" : "pixels"}`;
      make("span", "", tip).textContent = `${percent(pixels, ofRow[row])} of labelled ${labels[row]}`;
      make("span", "", tip).textContent = `${percent(pixels, ofColumn[column])} of predicted ${labels[column]}`;
      mark.hidden = tip.hidden = false;
      const outer = view.getBoundingClientRect(), inner = field.getBoundingClientRect();
      const x = inner.left - outer.left + (column + 0.5) * cell, y = inner.top - outer.top + (row + 1) * cell;
      const below = y + 8 + tip.offsetHeight <= outer.height + 4;
      tip.style.left = `${Math.max(0, Math.min(x - tip.offsetWidth / 2, outer.width - tip.offsetWidth))}px`;
      tip.style.top = `${below ? y + 8 : Math.max(0, y - cell - 8 - tip.offsetHeight)}px`;
    };
    const point = (event) => {
      const box = field.getBoundingClientRect();
      show(Math.floor((event.clientY - box.top) / cell), Math.floor((event.clientX - box.left) / cell));
    };
    const keep = () => {  // the cell in sight, clear of the names that stay
      const left = sides[0].parentElement.offsetWidth, top = tops[0].parentElement.offsetHeight;
      const x = column * cell, y = row * cell;
      scroll.scrollLeft = Math.max(x + cell + left - scroll.clientWidth, Math.min(scroll.scrollLeft, x));
      scroll.scrollTop = Math.max(y + cell + top - scroll.clientHeight, Math.min(scroll.scrollTop, y));
    };
    const STEPS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0], Home: [0, -size], End: [0, size]};
    field.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
    field.addEventListener("click", point);
    field.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse" && document.activeElement !== field) hide(); });
    field.addEventListener("focus", () => { if (field.matches(":focus-visible")) { keep(); show(row, column); } });
    field.addEventListener("blur", hide);
    scroll.addEventListener("scroll", () => { if (!tip.hidden) show(row, column); });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      const step = STEPS[event.key];
      if (!step) return undefined;
      event.preventDefault();
      [row, column] = [row + step[0], column + step[1]].map((place) => Math.max(0, Math.min(size - 1, place)));
      keep();
      return show(row, column);
    });
    figure.classList.add("live");
    draw();
    new ResizeObserver(draw).observe(view);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  };
  document.querySelectorAll("[data-matrix]").forEach(enhance);
}
