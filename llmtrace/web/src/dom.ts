// The little that is needed of the DOM.

export function need<T extends Element = HTMLElement>(selector: string): T {
  const found = document.querySelector<T>(selector);
  if (!found) throw new Error(`the page has no ${selector}`);
  return found;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = "",
  text = "",
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** Writes only what changed, so that selections and readers are left alone. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Buttons of which one is pressed. */
export function segments<T extends string>(
  group: HTMLElement,
  options: readonly (readonly [T, string])[],
  chosen: T,
  onChoose: (option: T) => void,
): void {
  const buttons = options.map(([option, label]) => {
    const button = make("button", "", label);
    button.type = "button";
    button.setAttribute("aria-pressed", String(option === chosen));
    button.addEventListener("click", () => {
      buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      onChoose(option);
    });
    return button;
  });
  group.replaceChildren(...buttons);
}
