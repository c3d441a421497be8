// Turns coloured points: panes with one camera, colour layers, similarity to a clicked point.
const FIELD_OF_VIEW = 50 * Math.PI / 180, TANGENT = Math.tan(FIELD_OF_VIEW / 2);
const FIRST_TURN = 0.26, FIRST_TILT = 0.28, MOST_TILT = 1.5, CLICK_PX = 5, PICK_PX = 12;
const FILLED = 0.88, LEFT_OUT = 0.01, FITTED_POINTS = 1500, FIT_ROUNDS = 60;
const MARK_PX = [[14, [0, 0, 0]], [11, [1, 0.25, 0.55]], [5, [0, 0, 0]]];
const RAMP = [[38, 20, 74], [52, 78, 138], [35, 138, 141], [110, 205, 89], [255, 240, 80]];
const VERTEX = `#version 300 es
  uniform mat4 clip; uniform float size, distance;
  layout(location = 0) in vec3 position; layout(location = 1) in vec3 color; out vec3 shade;
  void main() {
    gl_Position = clip * vec4(position, 1.0);
    gl_PointSize = size * clamp(distance / gl_Position.w, 0.7, 1.6);
    shade = color;
  }`;
const FRAGMENT = `#version 300 es
  precision mediump float; in vec3 shade; out vec4 pixel;
  void main() {
    if (length(gl_PointCoord - 0.5) > 0.5) discard;
    pixel = vec4(shade, 1.0);
  }`;
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) =>
  [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = a => a.map(value => value / (Math.hypot(...a) || 1));
const plus = (a, b, factor) => a.map((value, axis) => value + factor * b[axis]);
const limited = (value, low, high) => Math.min(Math.max(value, low), high);

// Middle and half width of the values without the outermost ones.
function extent(values) {
  const sorted = Float64Array.from(values).sort(), last = sorted.length - 1;
  const low = sorted[Math.floor(LEFT_OUT * last)], high = sorted[Math.ceil((1 - LEFT_OUT) * last)];
  return { middle: (low + high) / 2, half: (high - low) / 2 };
}

// Compiles the shaders; gives the function that finds a uniform by its name.
function uniforms(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  return name => gl.getUniformLocation(program, name);
}

function painted(count, colorOf) {
  const colors = new Uint8ClampedArray(3 * count);
  for (let i = 0; i < count; i++) colors.set(colorOf(i), 3 * i);
  return colors;
}

// A frame's colours in a layer: stored ones, or the first three principal components.
function layerColors({ rgb, vectors, channels, low, high }, count) {
  const share = (i, c) => (vectors[i * channels + c] - low[c]) / (high[c] - low[c]);
  return rgb ?? painted(count, i => [0, 1, 2].map(c => 255 * share(i, c)));
}

// Cosine of each point's feature with that of one point, as colours.
function similarityColors({ vectors, channels }, count, chosen) {
  const feature = i => vectors.subarray(i * channels, (i + 1) * channels);
  const product = (a, b) => a.reduce((sum, value, c) => sum + value * b[c], 0);
  const one = feature(chosen), length = Math.sqrt(product(one, one));
  return painted(count, i => {
    const other = feature(i), both = length * Math.sqrt(product(other, other)) || 1;
    const place = limited(product(one, other) / both, 0, 1) * (RAMP.length - 1);
    const step = Math.min(Math.floor(place), RAMP.length - 2), rest = place - step;
    return RAMP[step].map((value, c) => (1 - rest) * value + rest * RAMP[step + 1][c]);
  });
}

function decoded(frame) {
  const steps = new Uint16Array(bytes(frame.positions).buffer), layers = {};
  const metres = (step, i) => frame.low[i % 3] + step * frame.step[i % 3];
  for (const [name, layer] of Object.entries(frame.layers))
    layers[name] = layer.rgb ? { rgb: bytes(layer.rgb) }
      : { ...layer, vectors: new Int8Array(bytes(layer.vectors).buffer) };
  return { ...frame, positions: Float32Array.from(steps, metres), layers, count: steps.length / 3 };
}

class Viewer {
  constructor(root, gl, canvas) {
    Object.assign(this, { root, gl, canvas, stage: root.querySelector('.stage') });
    this.frames = JSON.parse(root.querySelector('script').textContent);
    this.stage.querySelector('.fallback').replaceWith(canvas);
    this.field = name => root.querySelector(`[name=${name}]`);
    this.at = uniforms(gl);
    this.position = gl.createBuffer();
    this.panes = [...root.querySelectorAll('.pane')].map(box =>
      ({ box, choice: box.querySelector('select'), buffer: gl.createBuffer() }));
    for (const test of [gl.DEPTH_TEST, gl.SCISSOR_TEST]) gl.enable(test);
    gl.clearColor(0.063, 0.078, 0.106, 1);
    for (const part of root.querySelectorAll('[hidden]')) part.hidden = false;
    this.listen();
    this.ratio = 1;
    this.show(0);
    new ResizeObserver(() => this.resize()).observe(this.stage);
  }

  listen() {
    const { canvas } = this, pointers = this.pointers = new Map();
    const on = (target, name, act) => target.addEventListener(name, act, { passive: false });
    on(this.field('frame'), 'change', event => this.show(Number(event.target.value)));
    on(this.field('size'), 'input', () => this.draw());
    on(this.field('reset'), 'click', () => { this.fit(); this.choose(null); });
    for (const { choice } of this.panes) on(choice, 'change', () => this.paint());
    on(canvas, 'pointerdown', event => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      this.path = pointers.size > 1 ? Infinity : 0;
    });
    on(canvas, 'pointermove', event => this.drag(event));
    on(canvas, 'pointerup', event => event.button || this.path > CLICK_PX || this.pick(event));
    on(canvas, 'lostpointercapture', event => pointers.delete(event.pointerId));
    on(canvas, 'contextmenu', event => event.preventDefault());
    on(canvas, 'wheel', event => {
      event.preventDefault();
      this.zoom(Math.exp(limited(event.deltaY, -200, 200) / 500));
    });
    on(canvas, 'keydown', event => { if (event.key === 'Escape') this.choose(null); });
  }

  // One pointer turns (the right button or Shift moves); two zoom by their distance and move.
  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY], [x, y] = [now[0] - before[0], now[1] - before[1]];
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    this.path += Math.hypot(x, y);
    const apart = from => Math.hypot(from[0] - other[0], from[1] - other[1]) || 1;
    if (other || event.buttons === 2 || event.shiftKey) this.pan(x, y);
    else this.turn(x, y);
    if (other) this.zoom(apart(before) / apart(now));
  }

  turn(x, y) {
    this.azimuth -= 0.008 * x;
    this.tilt = limited(this.tilt + 0.008 * y, -MOST_TILT, MOST_TILT);
    this.move();
  }
  zoom(factor) {
    this.distance = limited(this.distance * factor, 0.02 * this.reach, 20 * this.reach);
    this.move();
  }
  pan(x, y) {
    const { right, up } = this.axes();
    const pixel = 2 * TANGENT * this.distance / this.panes[0].box.clientHeight;
    this.target = plus(plus(this.target, right, -x * pixel), up, y * pixel);
    this.move();
  }
  move() { this.moved = true; this.draw(); }
  choose(point) { this.chosen = point; this.paint(); }

  resize() {
    const { canvas, stage } = this, ratio = this.ratio = Math.min(devicePixelRatio, 2);
    [canvas.width, canvas.height] = [stage.clientWidth * ratio, stage.clientHeight * ratio];
    if (!this.moved) this.fit();
    this.draw();
  }

  // Unit vectors of the view: to its right, up, and from the target back to the eye.
  axes() {
    const { level, side, upright, azimuth, tilt } = this;
    const flat = plus(level.map(value => value * Math.cos(azimuth)), side, Math.sin(azimuth));
    const back = plus(flat.map(value => value * Math.cos(tilt)), upright, Math.sin(tilt));
    const right = unit(cross(upright, back));
    return { right, up: cross(back, right), back };
  }

  show(number) {
    const { gl } = this, frame = this.frame = decoded(this.frames[number]);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.position);
    gl.bufferData(gl.ARRAY_BUFFER, frame.positions, gl.STATIC_DRAW);
    // Camera axes are x right, y down, z forward: the level direction back to the camera is -z.
    this.upright = unit(frame.up);
    const back = [0, 0, -1], level = plus(back, this.upright, -dot(back, this.upright));
    this.level = unit(Math.hypot(...level) > 1e-3 ? level : [0, 1, 0]);
    this.side = cross(this.upright, this.level);
    const names = Object.keys(frame.layers);
    for (const { choice } of this.panes) {
      const wanted = choice.value || choice.dataset.first;
      choice.replaceChildren(...names.map(name => new Option(name)));
      choice.value = names.includes(wanted) ? wanted : names[0];
    }
    this.fit();
    this.choose(null);
  }

  // All points centred and filling a pane, seen from a little beside and above the camera.
  fit() {
    Object.assign(this, { azimuth: FIRST_TURN, tilt: FIRST_TILT, moved: false });
    const { positions, count } = this.frame, axes = this.axes(), kept = [];
    for (let i = 0; i < count; i += Math.max(1, Math.floor(count / FITTED_POINTS))) {
      const point = positions.subarray(3 * i, 3 * i + 3);
      kept.push([dot(point, axes.right), dot(point, axes.up), dot(point, axes.back)]);
    }
    const [x, y, depth] = [0, 1, 2].map(axis => extent(kept.map(point => point[axis])));
    const radius = this.reach = Math.max(x.half, y.half, depth.half, 1e-6);
    const { box } = this.panes[0], aspect = box.clientWidth / box.clientHeight || 1;
    const place = [x.middle, y.middle], nearest = depth.half + 0.05 * radius;
    const away = point => Math.max(this.distance - point[2] + depth.middle, 0.02 * radius);
    const seen = axis => extent(kept.map(point => (point[axis] - place[axis]) / away(point)));
    this.distance = nearest + 2 * radius;
    for (let round = 0; round < FIT_ROUNDS; round++) {
      const [across, upward] = [seen(0), seen(1)], step = 0.5 * (this.distance - 0.5 * depth.half);
      place[0] += step * across.middle;
      place[1] += step * upward.middle;
      const filled = Math.max(across.half / aspect, upward.half) / TANGENT / FILLED;
      this.distance = limited(this.distance * filled ** 0.3, nearest, nearest + 20 * radius);
    }
    const centre = axes.back.map(value => value * depth.middle);
    this.target = plus(plus(centre, axes.right, place[0]), axes.up, place[1]);
    this.fitted = this.distance;
  }

  paint() {
    const { gl, frame, chosen } = this;
    for (const { choice, buffer } of this.panes) {
      const layer = frame.layers[choice.value];
      const colors = chosen !== null && layer.vectors ? similarityColors : layerColors;
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.bufferData(gl.ARRAY_BUFFER, colors(layer, frame.count, chosen), gl.STATIC_DRAW);
    }
    this.draw();
  }

  // The point nearest to the eye among those under the pointer.
  pick(event) {
    const areas = this.panes.map(({ box }) => box.getBoundingClientRect());
    const pane = areas.find(area => event.clientX < area.right && event.clientY < area.bottom);
    if (!pane) return;
    const { positions, count } = this.frame, { right, up, back } = this.axes();
    const x = event.clientX - pane.left - pane.width / 2, scale = pane.height / 2 / TANGENT;
    const y = event.clientY - pane.top - pane.height / 2;
    let best = Infinity, found = null;
    for (let i = 0; i < count; i++) {
      const from = plus(positions.subarray(3 * i, 3 * i + 3), this.target, -1);
      const away = this.distance - dot(from, back), factor = scale / away;
      const off = Math.hypot(factor * dot(from, right) - x, factor * dot(from, up) + y);
      if (away <= 0 || off > PICK_PX) continue;
      const cost = away * (1 + 0.3 * off / PICK_PX);
      if (cost < best) [best, found] = [cost, i];
    }
    this.choose(found);
  }

  clip(aspect) {
    const { right, up, back } = this.axes(), eye = plus(this.target, back, this.distance);
    const near = 0.002 * this.distance, far = 100 * this.distance, y = 1 / TANGENT, x = y / aspect;
    const a = (near + far) / (near - far), b = 2 * near * far / (near - far), z = -dot(back, eye);
    return [0, 1, 2].flatMap(i => [x * right[i], y * up[i], a * back[i], -back[i]])
      .concat([-x * dot(right, eye), -y * dot(up, eye), a * z + b, -z]);
  }

  draw() {
    const { gl, frame, stage, panes, ratio } = this;
    const { clientWidth, clientHeight } = panes[0].box;
    const apart = Math.max(1.8 * Math.sqrt(clientWidth * clientHeight / frame.count), 2);
    const zoomed = Math.max(this.fitted / this.distance, 1) * Number(this.field('size').value);
    const attribute = (place, buffer, kind) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, kind, kind === gl.UNSIGNED_BYTE, 0, 0);
    };
    const points = (first, count, size) => {
      gl.uniform1f(this.at('size'), size);
      gl.drawArrays(gl.POINTS, first, count);
    };
    gl.uniformMatrix4fv(this.at('clip'), false, this.clip(clientWidth / clientHeight));
    gl.uniform1f(this.at('distance'), this.distance);
    attribute(0, this.position, gl.FLOAT);
    for (const { box, buffer } of panes) {
      const bottom = stage.clientHeight - box.offsetTop - box.clientHeight;
      const area = [box.offsetLeft, bottom, clientWidth, clientHeight].map(px => px * ratio);
      gl.viewport(...area);
      gl.scissor(...area);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      attribute(1, buffer, gl.UNSIGNED_BYTE);
      points(0, frame.count, apart * zoomed * ratio);
      gl.disableVertexAttribArray(1);
      for (const [size, color] of this.chosen === null ? [] : MARK_PX) {
        gl.clear(gl.DEPTH_BUFFER_BIT);
        gl.vertexAttrib3f(1, ...color);
        points(this.chosen, 1, size * ratio);
      }
    }
  }
}

for (const root of document.querySelectorAll('.viewer')) {
  const canvas = document.createElement('canvas'), gl = canvas.getContext('webgl2');
  Object.assign(canvas, { tabIndex: 0, ariaLabel: 'Points in 3D' });
  if (gl) new Viewer(root, gl, canvas);
  else root.querySelector('.fallback').textContent = 'This browser offers no WebGL 2, so the ' +
    'points cannot be turned here. The pictures show the same values.';
}
