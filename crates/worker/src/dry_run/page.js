// Runs out of reach of the page's scripts. Plays a tenth of a second of silence with the page's rights. Only a
// refusal to play counts: the page may forbid this source of sound.
(async () => {
  const number = (value, bytes) => {
    return String.fromCharCode(...Array.from({ length: bytes }, (_, i) => (value >> (8 * i)) & 255));
  };
  const canPlay = async () => {
    const samples = String.fromCharCode(128).repeat(800);
    // PCM, one channel, 8000 samples of one byte in a second.
    const format = [[1, 2], [1, 2], [8000, 4], [8000, 4], [1, 2], [8, 2]].map((field) => number(...field)).join("");
    const body = `WAVEfmt ${number(16, 4)}${format}data${number(samples.length, 4)}${samples}`;
    const audio = document.createElement("audio");
    audio.src = `data:audio/wav;base64,${btoa(`RIFF${number(body.length, 4)}${body}`)}`;
    const timeout = new Promise((resolve) => setTimeout(resolve, 1000));
    try {
      await Promise.race([audio.play(), timeout]);
      return true;
    } catch (error) {
      return error.name !== "NotAllowedError";
    } finally {
      audio.removeAttribute("src");
    }
  };
  return { title: String(document.title).slice(0, 300), autoplay: await canPlay() };
})()
