"use strict";
// Sorts a table by the column whose head is clicked: numbers by their size, once more the other way round.
(() => {
  const sorted = (row, column) => {
    const text = row.cells[column].textContent.trim().replace("−", "-");
    const number = parseFloat(text.replace(/^(best|last|average) /, "").replace(/,/g, ""));
    return text === "–" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (one, other) => {
    if (one === null || other === null) return (one === null) - (other === null);
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", {numeric: true});
  };
  const sort = (table) => {
    const head = table.querySelector("th[aria-sort]");
    if (!head) return;
    const sign = head.getAttribute("aria-sort") === "descending" ? -1 : 1;
    const rows = [...table.tBodies[0].rows].map((row) => [sorted(row, head.cellIndex), row]);
    rows.sort(([one], [other]) => (one === null || other === null ? 1 : sign) * compare(one, other));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  document.addEventListener("click", (event) => {
    const head = event.target.closest("th button")?.closest("th");
    if (!head) return;
    const before = head.getAttribute("aria-sort") || (head.classList.contains("amount") ? "ascending" : "descending");
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", before === "descending" ? "ascending" : "descending");
    sort(head.closest("table"));
  });
  document.addEventListener("renewed", () => document.querySelectorAll("table").forEach(sort));
})();
