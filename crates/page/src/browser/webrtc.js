// Tells once for each document when it sets up a connection of WebRTC: that it looks whether there is such a thing is no reason yet.
(binding) => {
  const tell = window[binding];
  delete window[binding];
  if (!tell || !window.RTCPeerConnection) return;
  const { prototype } = RTCPeerConnection;
  const original = prototype.setLocalDescription;
  let told = false;
  const { setLocalDescription: value } = {
    setLocalDescription(...description) {
      if (!told) tell("webrtc");
      told = true;
      return original.apply(this, description);
    },
  };
  Object.defineProperty(prototype, "setLocalDescription", { value, writable: true, enumerable: true, configurable: true });
}
