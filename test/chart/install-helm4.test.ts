import { controlPlaneMissing } from "../cluster/control-plane.ts";
import { helmsMissing } from "./helm.ts";
import { notRoot, PLANE, testInstallation } from "./install.ts";

testInstallation("helm4", notRoot ?? helmsMissing() ?? controlPlaneMissing(PLANE) ?? false);
