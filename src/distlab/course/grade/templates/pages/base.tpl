{%- extends 'nbgrader/base.tpl' -%}
{#- All pages with tables. What nbgrader does for each row and cell takes a second for 1,000 submissions. -#}
{%- block script -%}
<script>
// The page's own style gives columns their widths: no cell is measured for them.
$.extend($.fn.dataTable.defaults, {autoWidth: false});
if (typeof insertRow !== "undefined") {
    // A copy of a row costs a third of a new one.
    const pattern = insertRow($("<tbody/>"));
    insertRow = (table) => pattern.clone().appendTo(table);
}
// Who gave no name is called by the user name, not "None, None".
for (const [view, cell, id] of [["SubmissionUI", "$student_name", "student"], ["StudentUI", "$name", "id"]]) {
    if (!(view in window) || !window[view].prototype.render) continue;
    const render = window[view].prototype.render;
    window[view].prototype.render = function () {
        render.apply(this, arguments);
        if (this[cell] && this.model.get("last_name") === null && this.model.get("first_name") === null) {
            const name = this.model.get(id);
            const link = this[cell].attr("data-order", name).children("a");
            (link.length ? link : this[cell]).text(name);
        }
    };
}
$("<meta>", {name: "viewport", content: "width=device-width, initial-scale=1"}).appendTo("head");
</script>
<style>
@media (max-width: 991px) {  /* a table that is wider than a phone moves by itself */
    .col-md-10 { overflow-x: auto; }
    .page-header { margin: 10px 0; }
    .page-header h1 { font-size: 22px; margin: 0; }
    .jupyter-logo { display: none; }
}
</style>
{{ super() }}
{%- endblock -%}
