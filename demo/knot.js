// Draws a striped torus knot with WebGL, or with a 2D canvas if WebGL is missing.

const ALONG = 250;
const AROUND = 24;

const centre = (a) => {
  const r = 1 + 0.42 * Math.cos(3 * a);
  return [r * Math.cos(2 * a), r * Math.sin(2 * a), 0.62 * Math.sin(3 * a)];
};
const minus = (p, q) => p.map((v, i) => v - q[i]);
const cross = (p, q) => [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
const unit = (p) => p.map((v) => v / Math.hypot(...p));

/// Returns 7 numbers for each vertex: x, y, z, the normal's x, y, z, and the position along the tube (0 to 1).
function mesh(along, around) {
  const vertices = [];
  for (let i = 0; i <= along; i += 1) {
    const a = (i / along) * Math.PI * 2;
    const here = centre(a);
    const forward = unit(minus(centre(a + 0.01), here));
    const side = unit(cross(forward, unit(here)));
    const up = cross(side, forward);
    for (let j = 0; j <= around; j += 1) {
      const b = (j / around) * Math.PI * 2;
      const normal = side.map((v, k) => v * Math.cos(b) + up[k] * Math.sin(b));
      vertices.push(...here.map((v, k) => v + normal[k] * 0.27), ...normal, i / along);
    }
  }
  return vertices;
}

/// Returns the 4 vertex indices of each face.
function quads(along, around) {
  const indices = [];
  for (let i = 0; i < along; i += 1) {
    for (let j = 0; j < around; j += 1) {
      const a = i * (around + 1) + j;
      indices.push([a, a + around + 1, a + around + 2, a + 1]);
    }
  }
  return indices;
}

/// Returns the rows of the rotation at `t` seconds: about y by `yaw`, then about x by `pitch`.
function rotation(t) {
  const [yaw, pitch] = [t * 0.9, -0.55 + 0.25 * Math.sin(t * 0.7)];
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  return [[cy, 0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]];
}

const VERTEX = `
  attribute vec3 place, normal; attribute float along;
  uniform mat3 turn; uniform vec2 fit;
  varying vec3 facing; varying float stripe;
  void main() {
    vec3 p = turn * place;
    facing = turn * normal; stripe = along;
    float depth = 4.6 - p.z;
    gl_Position = vec4(p.xy * fit * 2.35, (depth - 4.6) * 0.4 * depth / 4.0, depth);
  }`;
const FRAGMENT = `
  precision mediump float;
  uniform float time; varying vec3 facing; varying float stripe;
  void main() {
    float band = fract(stripe * 18.0 - time * 0.6);
    vec3 colour = band < 0.5 ? vec3(1.0, 0.357, 0.243) : band < 0.75 ? vec3(1.0, 0.761, 0.278) : vec3(0.965, 0.945, 0.906);
    vec3 n = normalize(facing);
    float key = max(dot(n, normalize(vec3(-0.5, 0.8, 0.6))), 0.0);
    float rim = pow(1.0 - max(n.z, 0.0), 3.0);
    float shine = pow(max(dot(n, normalize(vec3(-0.3, 0.5, 1.0))), 0.0), 40.0);
    gl_FragColor = vec4(colour * (0.22 + 0.85 * key) + vec3(0.14, 0.25, 0.88) * rim * 0.9 + shine * 0.35, 1.0);
  }`;

function compile(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  return program;
}

function openGl(gl) {
  const program = compile(gl);
  gl.useProgram(program);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(mesh(ALONG, AROUND)), gl.STATIC_DRAW);
  [["place", 3, 0], ["normal", 3, 12], ["along", 1, 24]].forEach(([name, size, offset]) => {
    const slot = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(slot);
    gl.vertexAttribPointer(slot, size, gl.FLOAT, false, 28, offset);
  });
  const indices = quads(ALONG, AROUND).flatMap(([a, b, c, d]) => [a, b, c, a, c, d]);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint16Array(indices), gl.STATIC_DRAW);
  gl.enable(gl.DEPTH_TEST);
  const uniform = (name) => gl.getUniformLocation(program, name);
  return (t) => {
    const { width, height } = gl.canvas;
    const side = Math.min(width, height);
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const rows = rotation(t);
    gl.uniformMatrix3fv(uniform("turn"), false, [0, 1, 2].flatMap((c) => rows.map((row) => row[c])));
    gl.uniform2f(uniform("fit"), side / width, side / height);
    gl.uniform1f(uniform("time"), t);
    gl.drawElements(gl.TRIANGLES, indices.length, gl.UNSIGNED_SHORT, 0);
  };
}

function open2d(canvas) {
  const context = canvas.getContext("2d");
  const vertices = mesh(120, 10);
  const faces = quads(120, 10);
  const colours = [[255, 91, 62], [255, 91, 62], [255, 194, 71], [246, 241, 231]];
  return (t) => {
    const rows = rotation(t);
    const turn = (at) => rows.map((row) => row[0] * vertices[at] + row[1] * vertices[at + 1] + row[2] * vertices[at + 2]);
    const scale = Math.min(canvas.width, canvas.height) / 2 * 2.35;
    const points = Array.from({ length: vertices.length / 7 }, (_, i) => turn(i * 7));
    const seen = points.map(([x, y, z]) => [canvas.width / 2 + x * scale / (4.6 - z), canvas.height / 2 - y * scale / (4.6 - z)]);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const sorted = faces.map((face) => [points[face[0]][2] + points[face[2]][2], face]).sort((p, q) => p[0] - q[0]);
    for (const [, face] of sorted) {
      const normal = turn(face[0] * 7 + 3);
      const light = 0.3 + 0.8 * Math.max(0, -0.45 * normal[0] + 0.72 * normal[1] + 0.54 * normal[2]);
      const band = (((vertices[face[0] * 7 + 6] * 18 - t * 0.6) % 1) + 1) % 1;
      context.fillStyle = `rgb(${colours[Math.floor(band * 4)].map((c) => Math.round(c * light))})`;
      context.beginPath();
      for (const corner of face) context.lineTo(...seen[corner]);
      context.fill();
    }
  };
}

/// Prepares a canvas. Returns the name of the renderer, and a function that draws the knot at a time in seconds.
export function openKnot(canvas) {
  const gl = canvas.getContext("webgl", { antialias: true, alpha: true });
  return gl ? { name: "WebGL", draw: openGl(gl) } : { name: "2D canvas", draw: open2d(canvas) };
}
