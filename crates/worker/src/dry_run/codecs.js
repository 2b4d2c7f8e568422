// Asks an empty page, before any other script can replace these functions.
(() => {
  const plays = (type) => MediaSource.isTypeSupported(type);
  return {
    h264: plays('video/mp4; codecs="avc1.640028"'),
    vp8: plays('video/webm; codecs="vp8"'),
    vp9: plays('video/webm; codecs="vp9"'),
    av1: plays('video/mp4; codecs="av01.0.08M.08"'),
    aac: plays('audio/mp4; codecs="mp4a.40.2"'),
    opus: plays('audio/webm; codecs="opus"'),
  };
})()
