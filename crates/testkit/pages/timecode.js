"use strict";
// Draws the timecode that src/timecode.rs reads: 32 x 4 cells of 8 CSS pixels in the top left corner.
// Row 0: 0xA5 and a 24-bit counter; row 1: page time; row 2: event time; row 3: user bits and CRC-16. Times in 0.1 ms.

const drawTimecode = (() => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [32, 4];
  canvas.style.cssText =
    "position:fixed;left:0;top:0;width:256px;height:32px;image-rendering:pixelated;z-index:2147483647";
  const context = canvas.getContext("2d");
  const image = context.createImageData(32, 4);
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  // With ?absolute, times are comparable with those of other pages on this machine.
  const epoch = new URLSearchParams(location.search).has("absolute") ? performance.timeOrigin % 1e8 : 0;

  function crc16(length) {
    let crc = 0xffff;
    for (let i = 0; i < length; i++) {
      crc ^= bytes[i] << 8;
      for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : crc << 1;
    }
    return crc;
  }

  return function draw({ counter, pageTime, eventTime = null, userBits = 0 }) {
    view.setUint32(0, ((0xa5 << 24) | (counter & 0xffffff)) >>> 0);
    view.setUint32(4, Math.round((epoch + pageTime) * 10));
    view.setUint32(8, eventTime === null ? 0xffffffff : Math.round((epoch + eventTime) * 10));
    view.setUint16(12, userBits);
    view.setUint16(14, crc16(14));
    for (let bit = 0; bit < 128; bit++) {
      const value = (bytes[bit >> 3] >> (7 - (bit & 7))) & 1 ? 255 : 0;
      image.data.fill(value, bit * 4, bit * 4 + 3);
      image.data[bit * 4 + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    if (!canvas.isConnected) document.documentElement.append(canvas);
  };
})();

// Calls `draw(counter, time)` in every animation frame and shows the timecode with the fields that it returns.
function eachFrame(draw = () => ({})) {
  let counter = 0;
  requestAnimationFrame(function frame(time) {
    drawTimecode({ counter, pageTime: time, ...draw(counter, time) });
    counter++;
    requestAnimationFrame(frame);
  });
}

// Reports `what` to the test, as a request.
function report(what) {
  return fetch("/report/" + what, { cache: "no-store" });
}
