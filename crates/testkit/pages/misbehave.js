"use strict";
// Makes a page misbehave, as its query says:
//   do=WHAT&after=MS&loads=N&id=X   WHAT happens MS after the load, in the first N loads of page X (default: in all)
//   start=MS, end=MS, ready=MS calls onWebcastStart, onWebcastEnd or notifyReady, if they exist

(() => {
  const query = new URLSearchParams(location.search);
  const later = (name, what) => {
    if (query.has(name)) setTimeout(what, Number(query.get(name)));
  };
  const call = (name) => () => {
    if (typeof window[name] === "function") window[name]();
    fetch("/report/" + name + "-" + typeof window[name]);
  };
  later("start", call("onWebcastStart"));
  later("ready", call("notifyReady"));
  later("end", call("onWebcastEnd"));

  const stopDrawing = () => { window.requestAnimationFrame = () => 0; };
  const faults = {
    freeze: stopDrawing,
    // Keeps painting what is already shown.
    repaint() {
      stopDrawing();
      const patch = document.createElement("div");
      patch.style.cssText = "position:fixed;left:300px;top:300px;width:40px;height:40px;background:#123456";
      document.body.append(patch);
      let wide = false;
      setInterval(() => { patch.style.outline = (wide = !wide) ? "0px solid #123456" : "none"; }, 30);
    },
    blank() {
      stopDrawing();
      // A frame that was requested before is still drawn.
      setTimeout(() => { document.documentElement.innerHTML = "<style>html{background:#fff}</style>"; }, 100);
    },
    loop() { for (;;); },
    memory() {
      const kept = [];
      setInterval(() => kept.push(new Uint8Array(48 << 20).fill(1)), 40);
    },
    canvas() {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [20000, 20000];
      const context = canvas.getContext("2d");
      context?.fillRect(0, 0, 20000, 20000);
      document.body.append(canvas);
    },
    videos() {
      for (let i = 0; i < 40; i++) {
        const video = document.createElement("video");
        video.src = query.get("video");
        video.style.cssText = "width:64px;height:36px;position:relative;top:100px";
        document.body.append(video);
        video.play().then(() => fetch("/report/plays"), () => fetch("/report/does-not-play"));
      }
    },
    appear() {
      const late = document.createElement("p");
      late.id = "late";
      late.textContent = "Here I am";
      document.body.append(late);
    },
    reload() { location.reload(); },
  };

  const request = new XMLHttpRequest();
  request.open("GET", "/loads" + (query.has("id") ? "?" + query.get("id") : ""), false);
  request.send();
  const load = Number(request.responseText);
  const wanted = faults[query.get("do")];
  if (wanted && load <= Number(query.get("loads") ?? Infinity)) setTimeout(wanted, Number(query.get("after") ?? 0));
})();
