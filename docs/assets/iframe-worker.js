// Browsers start no workers for pages that are read from disk. There, the search runs in
// a hidden frame instead, which looks the same from both sides.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      const inside = this.frame.contentWindow;
      // What a worker's own code may call.
      const prelude = `
        window.importScripts = (...urls) => urls.reduce((before, url) =>
          before.then(() => new Promise((done, failed) => {
            const script = document.createElement("script");
            script.src = url;
            script.onload = done;
            script.onerror = failed;
            document.body.appendChild(script);
          })), Promise.resolve());
        window.postMessage = (data) => parent.postMessage(data, "*");`;
      this.post = inside.postMessage.bind(inside);
      const script = (rest) => `<script${rest}</` + "script>";
      inside.document.open();
      inside.document.write(
        `<!doctype html><body>${script(">" + prelude)}${script(` src="${url}">`)}`
      );
      inside.document.close();
      this.ready = new Promise((done) => inside.addEventListener("load", done));
      addEventListener("message", (event) => {
        if (event.source !== this.frame.contentWindow) return;
        const copy = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(copy);
        if (this.onmessage) this.onmessage(copy);
      });
    }
    postMessage(data) {
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(
        new MessageEvent("message", { data })
      ));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
