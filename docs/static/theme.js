// The views in the notebooks follow the theme of the page as other hosts state it: tell them what furo's switch says.
{
  const follow = () => {
    const theme = document.body.dataset.theme;
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  addEventListener("DOMContentLoaded", () => {
    follow();
    new MutationObserver(follow).observe(document.body, { attributeFilter: ["data-theme"] });
  });
}
