"use strict";
document.documentElement.classList.add("scripting");
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const numeric = head.dataset.kind === "number";
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.sort;
      const compare = (one, two) => numeric ? key(one) - key(two) : key(one).localeCompare(key(two), undefined, {numeric: true});
      const rows = [...body.rows].sort((one, two) => sign * compare(one, two));
      heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
      body.append(...rows);
    });
  });
}
for (const copy of navigator.clipboard ? document.querySelectorAll(".copy") : []) {
  copy.hidden = false;
  copy.addEventListener("click", () => {
    navigator.clipboard.writeText(copy.parentElement.querySelector("code").textContent).then(() => {
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
  });
}
