// Reports once for each document when it sets up a WebRTC connection. Feature detection alone does not count.
(binding) => {
  const report = window[binding];
  delete window[binding];
  if (!report || !window.RTCPeerConnection) return;
  const { prototype } = RTCPeerConnection;
  const original = prototype.setLocalDescription;
  let reported = false;
  const { setLocalDescription: value } = {
    setLocalDescription(...description) {
      if (!reported) report("webrtc");
      reported = true;
      return original.apply(this, description);
    },
  };
  const descriptor = { value, writable: true, enumerable: true, configurable: true };
  Object.defineProperty(prototype, "setLocalDescription", descriptor);
}
