// Watches a room by WHEP: sends an offer for video and sound with all candidates, and takes the answer.
async function connectWhep(url, peer) {
  for (const kind of ["video", "audio"]) peer.addTransceiver(kind, { direction: "recvonly" });
  await peer.setLocalDescription();
  if (peer.iceGatheringState !== "complete") {
    await new Promise((done) => peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && done()));
  }
  const answer = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/sdp" },
    body: peer.localDescription.sdp,
  });
  if (!answer.ok) throw new Error(`refused: ${answer.status}`);
  await peer.setRemoteDescription({ type: "answer", sdp: await answer.text() });
}
