// A list on the left and what is chosen on the right; where there is room for one only, either of them.

const ROW_HEIGHT = 62;

class SplitView {
  // A view gives row(item), show(item) and an address for an item; `search` says what its search box looks for.
  constructor(store, go, { name, plural, search }) {
    Object.assign(this, { store, go, plural });
    this.list = new VirtualList({
      name,
      label: plural,
      rowHeight: ROW_HEIGHT,
      render: (item) => this.row(item),
      onSelect: (item) => this.go(`${name}=${item}`, true),
      onOpen: () => this.focusDetail(),
    });
    this.search = el("input", {
      type: "search",
      placeholder: search,
      "aria-label": `search ${plural}`,
      oninput: () => this.apply(),
    });
    this.count = el("p.count", { role: "status" });
    this.detail = el(
      "div.detail",
      { tabindex: "-1", role: "region", "aria-label": name },
      el("p.hint", null, "Choose one, or press j."),
    );
    this.side = el("div.side", null, this.count, this.list.element);
    this.element = el("div.split", null, this.side, this.detail);
  }

  get wanted() {
    return this.search.value.toLowerCase();
  }

  setItems(items, total) {
    this.list.setItems(items);
    replace(
      this.count,
      items.length === total ? `${total} ${this.plural}` : `${items.length} of ${total} ${this.plural}`,
    );
  }

  setDetail(...content) {
    const back = el("button.back.quiet", { type: "button", onclick: () => this.close() }, "← list");
    replace(this.detail, back, content);
    this.detail.scrollTop = 0;
  }

  move(step) {
    this.list.move(step);
  }

  open() {
    if (this.list.item !== undefined) this.focusDetail();
  }

  close() {
    this.element.classList.remove("open");
    this.list.element.focus({ preventScroll: true });
  }

  focusDetail() {
    this.element.classList.add("open");
    this.detail.focus({ preventScroll: true });
  }

  focusSearch() {
    this.element.classList.remove("open");
    this.search.focus();
    this.search.select();
  }
}
