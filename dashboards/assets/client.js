window.dash_clientside = Object.assign({}, window.dash_clientside, {
  exitbits: {
    toggle_theme: function (clicks, theme) {
      return theme === "dark" ? "light" : "dark";
    },
    // A slider that is being moved tells every step: only the last one is worth an answer.
    settle: function (value) {
      const mine = (window.exitbitsLatest = (window.exitbitsLatest || 0) + 1);
      return new Promise(function (resolve) {
        setTimeout(function () {
          resolve(mine === window.exitbitsLatest ? value : window.dash_clientside.no_update);
        }, 200);
      });
    },
    apply_theme: function (theme) {
      document.documentElement.dataset.theme = theme || "light";
      document.body.dataset.agThemeMode = theme || "light";
      return theme === "dark" ? "Light theme" : "Dark theme";
    },
  },
});
