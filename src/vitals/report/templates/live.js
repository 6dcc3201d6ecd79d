"use strict";
// Follows what the page tells of. What has changed is put in its place, so that all that the reader has opened,
// scrolled to, sorted or marked stays as it is.
(() => {
  const EVERY = 1500;
  const OURS = ["open", "aria-sort"];

  const patch = (old, fresh) => {
    if (old.isEqualNode(fresh) || (old.nodeType === 1 && old.hasAttribute("data-own"))) return;
    if (old.nodeType !== 1 || old.nodeName !== fresh.nodeName || old.nodeName === "svg") {
      old.replaceWith(fresh);
      return;
    }
    for (const {name} of [...old.attributes])
      if (!fresh.hasAttribute(name) && !OURS.includes(name)) old.removeAttribute(name);
    for (const {name, value} of [...fresh.attributes])
      if (!OURS.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    let place = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const match = child.id ? named.get(child.id) : place && !place.id ? place : null;
      if (!match) {
        old.insertBefore(child, place);
        continue;
      }
      if (match === place) place = place.nextSibling;
      else old.insertBefore(match, place);
      patch(match, child);
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  };

  const renew = (fresh) => {
    const top = (part) => part.getBoundingClientRect().top;
    const parts = scrollY > 0 ? [...document.querySelectorAll("main :is(section, header, figure, p, tr, pre)")] : [];
    const seen = parts.filter((part) => part.checkVisibility() && top(part) >= 0).map((part) => [part, top(part)]);
    document.title = fresh.title;
    patch(document.body, fresh.body);
    const [first, before] = seen.find(([part]) => part.isConnected && part.checkVisibility()) || [];
    if (first) scrollBy(0, top(first) - before);
    document.dispatchEvent(new Event("renewed"));
  };

  const ago = (written) => {
    const seconds = Math.max(0, Math.round((Date.now() - Date.parse(written)) / 1000));
    if (seconds < 120) return `${seconds} s ago`;
    return seconds < 7200 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;
  };

  let tag = "";
  const look = async () => {
    const said = document.querySelector("#live [data-own]");
    try {
      const answer = await fetch(location.pathname, {cache: "no-store", headers: tag ? {"If-None-Match": tag} : {}});
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        renew(new DOMParser().parseFromString(await answer.text(), "text/html"));
      }
      if (answer.status >= 400) throw new Error(await answer.text());
      const written = document.querySelector("#live time").getAttribute("datetime");
      said.textContent = written ? `Figures as of ${ago(written)}.` : "";
      said.className = "";
    } catch (error) {
      const ended = error instanceof TypeError;
      said.textContent = ended ? "No longer followed: the command that served this page has ended." : error.message;
      said.className = "lost";
    }
  };
  const follow = async () => {
    if (!document.hidden) await look();
    setTimeout(follow, EVERY);
  };
  document.addEventListener("visibilitychange", () => document.hidden || look());
  follow();
})();
