// Light, dark, or as the system has it.

import { need, setText } from "./dom";

const NEXT = { auto: "light", light: "dark", dark: "auto" } as const;
type Choice = keyof typeof NEXT;
const NAMES: Record<Choice, string> = { auto: "Auto", light: "Light", dark: "Dark" };
const STORED = "llmtrace-theme";

function stored(): Choice {
  try {
    const choice = localStorage.getItem(STORED);
    return choice === "light" || choice === "dark" ? choice : "auto";
  } catch {
    return "auto";
  }
}

/** `onChange` is called whenever colours have become others. */
export function theme(onChange: () => void): void {
  let choice = stored();
  const button = need<HTMLButtonElement>("#theme");
  const apply = (): void => {
    if (choice === "auto") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = choice;
    setText(button, NAMES[choice]);
    button.setAttribute("aria-label", `Colours: ${NAMES[choice]}`);
  };
  button.addEventListener("click", () => {
    choice = NEXT[choice];
    try {
      localStorage.setItem(STORED, choice);
    } catch {
      // It holds until the page is left.
    }
    apply();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  apply();
}
