// Nothing here is needed to read the report: without it the contents list is plain links.
(() => {
  const sidebar = document.querySelector(".sidebar");
  const menu = document.querySelector("details.contents");
  const here = menu.querySelector(".here");
  const links = [...document.querySelectorAll(".sidebar li a, details.contents li a")];
  const listed = new Set(links.map((link) => link.hash.slice(1)));
  const headings = [...document.querySelectorAll("main h2, main h3")].filter((heading) => listed.has(heading.id));

  // The current section is the last one whose heading has passed the upper quarter of the window.
  const line = 0.25;
  function markCurrent() {
    const root = document.documentElement;
    const atEnd = root.scrollHeight > innerHeight && scrollY + innerHeight >= root.scrollHeight - 2;
    const passed = headings.filter((heading) => heading.getBoundingClientRect().top <= innerHeight * line);
    const current = (atEnd ? headings : passed).at(-1);
    here.textContent = current ? current.textContent : "";
    for (const link of links) {
      if (current && link.hash === "#" + current.id) {
        link.setAttribute("aria-current", "location");
        if (sidebar.contains(link)) keepInView(link);
      } else {
        link.removeAttribute("aria-current");
      }
    }
  }

  function keepInView(link) {
    const box = sidebar.getBoundingClientRect();
    const place = link.getBoundingClientRect();
    if (place.top < box.top + 40) sidebar.scrollTop -= box.top + 40 - place.top;
    if (place.bottom > box.bottom - 40) sidebar.scrollTop += place.bottom - box.bottom + 40;
  }

  // Watched is all that lies above the line, however far: a jump may take a heading past the window in one step.
  const atLine = new IntersectionObserver(markCurrent, { rootMargin: `1000000px 0px ${(line - 1) * 100}% 0px` });
  for (const heading of headings) atLine.observe(heading);
  new IntersectionObserver(markCurrent).observe(document.querySelector("#end"));

  menu.addEventListener("click", (event) => {
    if (event.target.closest("a")) menu.open = false;
  });

  // What scrolls sideways must be reachable by keyboard, and only that.
  const boxes = document.querySelectorAll(".table-scroll, main pre, .formula");
  const reachable = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const box of boxes) reachable.observe(box);
})();
