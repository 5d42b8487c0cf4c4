/** Live GPU buffers, counted where the browser makes them, so that a leak test does not trust our own books. */

/** What the buffers of a device have in common. */
interface Tally {
  live: number;
}

const tallies = new Set<Tally>();
const ofDevice = new WeakMap<object, Tally>();
const ofBuffer = new WeakMap<object, Tally>();
const forgotten = new FinalizationRegistry<Tally>((tally) => (tally.live -= 1));

/** Buffers that are neither destroyed nor collected, on devices that are not lost. */
export function liveBuffers(): number {
  return [...tallies].reduce((sum, tally) => sum + tally.live, 0);
}

function tallyOf(device: { lost: Promise<unknown> }): Tally {
  let tally = ofDevice.get(device);
  if (!tally) {
    tally = { live: 0 };
    ofDevice.set(device, tally);
    tallies.add(tally);
    const counted = tally;
    device.lost.then(() => tallies.delete(counted));
  }
  return tally;
}

const { GPUDevice, GPUBuffer } = globalThis as unknown as Record<string, { prototype: any } | undefined>;
if (GPUDevice && GPUBuffer) {
  const { createBuffer } = GPUDevice.prototype;
  GPUDevice.prototype.createBuffer = function (descriptor: unknown) {
    const buffer = createBuffer.call(this, descriptor);
    const tally = tallyOf(this);
    tally.live += 1;
    forgotten.register(buffer, tally, buffer);
    ofBuffer.set(buffer, tally);
    return buffer;
  };
  const destroyDevice = GPUDevice.prototype.destroy;
  GPUDevice.prototype.destroy = function () {
    tallies.delete(tallyOf(this));
    return destroyDevice.call(this);
  };
  const { destroy } = GPUBuffer.prototype;
  GPUBuffer.prototype.destroy = function () {
    const tally = ofBuffer.get(this);
    if (tally && forgotten.unregister(this)) tally.live -= 1;
    return destroy.call(this);
  };
}
