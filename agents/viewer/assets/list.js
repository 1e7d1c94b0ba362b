// A long list of which only the rows on the screen exist. One row is selected; the page decides what that means.

const SPARE_ROWS = 6;

class VirtualList {
  // render(item) gives a row's children; onSelect(item) is called for every selection, onOpen(item) for a deliberate one.
  constructor({ name, label, rowHeight, render, onSelect, onOpen }) {
    Object.assign(this, { name, rowHeight, render, onSelect, onOpen });
    this.items = [];
    this.selected = -1;
    this.rows = new Map();
    this.spacer = el("div.spacer", { role: "presentation" });
    this.element = el("div.list", { tabindex: "0", role: "listbox", "aria-label": label }, this.spacer);
    this.element.addEventListener("scroll", () => this.draw(), { passive: true });
    this.element.addEventListener("click", (event) => this.click(event));
    this.element.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  get item() {
    return this.items[this.selected];
  }

  setItems(items) {
    const kept = items.indexOf(this.item);
    this.items = items;
    this.selected = kept;
    this.spacer.style.setProperty("height", `${items.length * this.rowHeight}px`);
    this.redraw();
    if (kept >= 0) this.reveal();
    else this.element.scrollTop = 0;
  }

  redraw() {
    this.spacer.replaceChildren();
    this.rows.clear();
    this.draw();
  }

  draw() {
    const top = this.element.scrollTop;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - SPARE_ROWS);
    const last = Math.min(
      this.items.length,
      Math.ceil((top + this.element.clientHeight) / this.rowHeight) + SPARE_ROWS,
    );
    for (const [k, row] of this.rows) {
      if (k < first || k >= last) {
        row.remove();
        this.rows.delete(k);
      }
    }
    for (let k = first; k < last; k++) if (!this.rows.has(k)) this.addRow(k);
    this.mark();
  }

  addRow(k) {
    const attributes = {
      role: "option",
      id: `${this.name}-${k}`,
      "aria-setsize": this.items.length,
      "aria-posinset": k + 1,
      "data-k": k,
    };
    const row = el("div.row", attributes, this.render(this.items[k]));
    row.style.setProperty("top", `${k * this.rowHeight}px`);
    row.style.setProperty("height", `${this.rowHeight}px`);
    this.rows.set(k, row);
    this.spacer.append(row);
  }

  mark() {
    for (const [k, row] of this.rows) row.setAttribute("aria-selected", String(k === this.selected));
    if (this.rows.has(this.selected))
      this.element.setAttribute("aria-activedescendant", `${this.name}-${this.selected}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  select(k) {
    if (!this.items.length) return;
    this.selected = Math.min(Math.max(k, 0), this.items.length - 1);
    this.reveal();
    this.onSelect(this.item);
  }

  // Select an item without telling; false when it is not listed.
  show(item) {
    const k = this.items.indexOf(item);
    this.selected = k;
    if (k >= 0) this.reveal();
    else this.mark();
    return k >= 0;
  }

  move(step) {
    this.select(this.selected < 0 ? 0 : this.selected + step);
  }

  reveal() {
    const top = this.selected * this.rowHeight;
    const height = this.element.clientHeight;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + this.rowHeight > this.element.scrollTop + height)
      this.element.scrollTop = top + this.rowHeight - height;
    this.draw();
  }

  click(event) {
    const row = event.target.closest(".row");
    if (!row) return;
    this.select(Number(row.dataset.k));
    this.onOpen(this.item);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.rowHeight) - 1);
    const steps = {
      ArrowDown: 1,
      ArrowUp: -1,
      PageDown: page,
      PageUp: -page,
      Home: -this.items.length,
      End: this.items.length,
    };
    if (event.key in steps) this.move(steps[event.key]);
    else if (event.key === "Enter" && this.item !== undefined) this.onOpen(this.item);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

function picker(label, options, onchange) {
  const select = el(
    "select",
    { onchange: () => onchange(select.value) },
    options.map(([value, text]) => el("option", { value }, text)),
  );
  return { element: el("label.picker", null, el("span", null, label), select), select };
}

// Sorts by a key; missing values come last whichever way. Stable, so that ties keep the order of the run.
function sortBy(items, key, descending) {
  const sign = descending ? -1 : 1;
  const keyed = items.map((item) => [key(item), item]);
  keyed.sort(([a], [b]) => {
    if (a === b) return 0;
    if (a === null) return 1;
    if (b === null) return -1;
    return a < b ? -sign : sign;
  });
  return keyed.map(([, item]) => item);
}
