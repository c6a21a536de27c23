// The browser's time and timers, handed to what knows no DOM.

export const clock = {
  now: () => performance.now(),
  random: Math.random,
  setTimeout: (f, ms) => setTimeout(f, ms),
  clearTimeout: (timer) => clearTimeout(timer),
  setInterval: (f, ms) => setInterval(f, ms),
  clearInterval: (timer) => clearInterval(timer),
};
