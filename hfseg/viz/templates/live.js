{
  // While the run is under way: ask the server now and then, and put in place what has changed.
  const state = document.querySelector("#live");
  const PAUSE_MS = Number(state.dataset.pauseMs);
  let stamp = state.dataset.stamp;
  const ask = async () => {
    try {
      const answer = await fetch(`/pieces.json?since=${encodeURIComponent(stamp)}`, {cache: "no-store"});
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      if (answer.status === 200) {
        const fresh = await answer.json();
        if (fresh.reload) return location.reload();
        stamp = fresh.stamp;
        for (const [id, html] of Object.entries(fresh.pieces)) document.getElementById(id).innerHTML = html;
      }
      state.textContent = `live, read at ${new Date().toLocaleTimeString()}`;
      state.classList.remove("lost");
    } catch {
      state.textContent = "the server does not answer: this is the last that was read";
      state.classList.add("lost");
    }
    return setTimeout(ask, document.hidden ? 4 * PAUSE_MS : PAUSE_MS);
  };
  setTimeout(ask, PAUSE_MS);
}
