(async () => {
  const pixels = (text) => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 48;
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.font = '32px sans-serif';
    context.fillText(text, 4, 38);
    return Array.from(context.getImageData(0, 0, 48, 48).data);
  };
  // A character that no font has is drawn as the missing glyph.
  const missingGlyph = pixels('\u{10FFFD}').join();
  const coloured = (data) => data.some((v, i) => i % 4 === 0 && (v !== data[i + 1] || v !== data[i + 2]));
  const plays = (type) => MediaSource.isTypeSupported(type);
  const soundWorks = async () => {
    const context = new AudioContext();
    const oscillator = context.createOscillator();
    oscillator.connect(context.destination);
    oscillator.start();
    for (let i = 0; i < 40 && context.currentTime === 0; i++) await new Promise((r) => setTimeout(r, 50));
    const running = context.currentTime > 0;
    await context.close();
    return running;
  };
  return {
    cjk: ['你', '語', '한'].every((c) => pixels(c).join() !== missingGlyph),
    emoji: coloured(pixels('😀')),
    h264: plays('video/mp4; codecs="avc1.640028, mp4a.40.2"'),
    vp9: plays('video/webm; codecs="vp9, opus"'),
    webgl: !!document.createElement('canvas').getContext('webgl2'),
    sound: await soundWorks(),
  };
})()
