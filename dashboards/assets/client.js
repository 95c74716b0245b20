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
    // Of a selection only its outline is sent, not the points inside.
    outline: function (event) {
      if (!event || !(event.range || event.lassoPoints)) return window.dash_clientside.no_update;
      return { range: event.range, lassoPoints: event.lassoPoints };
    },
    apply_theme: function (theme) {
      document.documentElement.dataset.theme = theme || "light";
      document.body.dataset.agThemeMode = theme || "light";
      return theme === "dark" ? "Light theme" : "Dark theme";
    },
  },
});

// What Dash's controls lack for a screen reader. Its lists of choices call themselves list boxes of
// options, but are native radio buttons and check boxes in labels; lists and sliders have no name; a
// dropdown hides a field that can have the focus.
(function () {
  function named(element) {
    const box = element.closest("fieldset, [aria-labelledby], .named");
    const title = box && box.getAttribute("aria-labelledby");
    const found = title ? document.getElementById(title) : box && box.querySelector("legend, label");
    return found ? found.textContent : "choices";
  }
  function mend() {
    document.querySelectorAll('.dash-options-list[role="listbox"]').forEach(function (list) {
      list.setAttribute("role", "group");
      list.setAttribute("aria-label", named(list));
    });
    document.querySelectorAll(".dash-options-list-option").forEach(function (option) {
      ["role", "aria-selected"].forEach(function (name) {
        if (option.hasAttribute(name)) option.removeAttribute(name);
      });
    });
    document.querySelectorAll('[role="slider"]:not([aria-label])').forEach(function (slider) {
      slider.setAttribute("aria-label", named(slider));
    });
    document
      .querySelectorAll('.dash-dropdown-focus-target[aria-hidden="true"][tabindex="0"]')
      .forEach(function (field) {
        field.setAttribute("tabindex", "-1");
      });
  }
  new MutationObserver(mend).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["aria-selected", "role"],
  });
})();
