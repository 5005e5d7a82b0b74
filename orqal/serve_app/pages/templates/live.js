// If the page has parts marked `data-live`, fetch it again every few seconds and replace the parts that have changed.
(() => {
  const PERIOD = 4000, LONGEST = 60000;  // milliseconds
  const parts = root => [...root.querySelectorAll("[data-live]")];
  // Without a user and password, which the address may contain but `fetch` refuses.
  const address = location.origin + location.pathname + location.search;
  let wait = PERIOD, timer;

  async function refresh() {
    const note = document.getElementById("stale");
    try {
      const answer = await fetch(address, {cache: "no-store"});
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of parts(document)) {
        const part = fresh.getElementById(old.id);
        if (part && !part.isEqualNode(old) && !selected(old)) old.replaceWith(document.adoptNode(part));
      }
      note.hidden = true;
      wait = PERIOD;
    } catch {
      note.hidden = false;
      wait = Math.min(2 * wait, LONGEST);
    }
    plan();
  }

  function selected(part) {
    const selection = getSelection();
    return !selection.isCollapsed && selection.containsNode(part, true);
  }

  function plan() {
    clearTimeout(timer);
    if (!document.hidden && parts(document).length) timer = setTimeout(refresh, wait);
  }

  document.addEventListener("visibilitychange", () => document.hidden ? plan() : parts(document).length && refresh());
  plan();
})();
